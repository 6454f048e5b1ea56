"""X.509 certificates as Consul 1.8's own provider makes them: names, extensions and ids (pure).

Certificates and keys come and go as PEM; keys are on the curve P-256.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_COMMON_NAME_BYTES: Final = 64
_FOR_BOTH_ENDS: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
_USAGES: Final = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Signer:
    """A certificate that signs others, with its key."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a certificate says."""

    name: str
    """Common name."""

    uri: str
    """SPIFFE id."""

    begin: datetime
    end: datetime
    """It is valid between the two, to the second."""


def new_key() -> str:
    """A private key."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def normal_key(pem: str) -> str:
    """The same private key in one spelling. Raises ValueError for what is none on the curve P-256."""
    try:
        return _key_pem(_key(pem))
    except TypeError as error:
        raise ValueError("the key is encrypted") from error


def parsed(certificate: str) -> x509.Certificate:
    """Raises ValueError for what is none."""
    return x509.load_pem_x509_certificate(certificate.encode())


def root(subject: Subject, key: str) -> str:
    """A certificate that signs itself."""
    return _signed(_authority(subject, key), Signer(certificate="", key=key), _name(subject.name))


def cross_signed(subject: Subject, key: str, by: Signer) -> str:
    """The same signed by another root."""
    return _signed(_authority(subject, key), by)


def leaf(subject: Subject, key: str, by: Signer) -> str:
    """A certificate for both ends of a connection."""
    usage = _usage("digital_signature", "key_encipherment", "data_encipherment", "key_agreement")
    made = _certificate(subject, key).add_extension(usage, critical=True)
    made = made.add_extension(_FOR_BOTH_ENDS, critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return _signed(made, by)


def leaf_name(service: str, domain: str) -> str:
    """Letters and digits of the service's name, cut so that all fits into a common name."""
    end = f".svc.default.{domain[:8]}.consul"
    return re.sub("[^a-z0-9]", "", service.lower())[: _COMMON_NAME_BYTES - len(end)] + end


def root_name(domain: str) -> str:
    """A common name that no other root has."""
    return f"pri-{secrets.token_hex(4)}.consul.ca.{domain[:8]}.consul"


def fingerprint(certificate: str) -> str:
    """Consul's id of a root."""
    return parsed(certificate).fingerprint(hashes.SHA1()).hex(":")


def key_id(certificate: str) -> str:
    """Id of a certificate's key."""
    return parsed(certificate).extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex(":")


def serial(certificate: str) -> str:
    """Its serial number, as Consul spells that of a leaf."""
    number = parsed(certificate).serial_number
    return number.to_bytes((number.bit_length() + 7) // 8, "big").hex(":")


def spelled(moment: datetime) -> str:
    """A time to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def whole_seconds(moment: datetime) -> datetime:
    """The moment as a certificate can say it."""
    return moment.astimezone(UTC).replace(microsecond=0)


def _authority(subject: Subject, key: str) -> x509.CertificateBuilder:
    made = _certificate(subject, key)
    made = made.add_extension(_usage("digital_signature", "key_cert_sign", "crl_sign"), critical=True)
    return made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)


def _certificate(subject: Subject, key: str) -> x509.CertificateBuilder:
    """What all certificates have."""
    own = _key(key)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(subject.uri)])
    made = x509.CertificateBuilder().subject_name(_name(subject.name)).public_key(own.public_key())
    made = made.serial_number(secrets.randbits(62) | 1).not_valid_before(subject.begin).not_valid_after(subject.end)
    made = made.add_extension(names, critical=False)
    return made.add_extension(x509.SubjectKeyIdentifier(_key_id(own)), critical=False)


def _signed(made: x509.CertificateBuilder, by: Signer, issuer: x509.Name | None = None) -> str:
    own = _key(by.key)
    made = made.issuer_name(issuer or parsed(by.certificate).subject)
    made = made.add_extension(x509.AuthorityKeyIdentifier(_key_id(own), None, None), critical=False)
    return made.sign(own, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def _usage(*wanted: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in wanted for usage in _USAGES})


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key(pem: str) -> ec.EllipticCurvePrivateKey:
    found = load_pem_private_key(pem.encode(), password=None)
    if not isinstance(found, ec.EllipticCurvePrivateKey) or not isinstance(found.curve, ec.SECP256R1):
        raise ValueError("it is not on the curve P-256")
    return found


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def _key_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    info = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).digest()
