"""The JSON that Consul answers with for certificates and intentions (pure)."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from mesh.registry.dev import certificates
from mesh.registry.dev.authority import Authority, Leaf, Root
from mesh.registry.dev.certificates import spelled
from mesh.registry.dev.intentions import Intention


def roots(authority: Authority) -> dict[str, Any]:
    """`/v1/connect/ca/roots`."""
    return {
        "ActiveRootID": certificates.fingerprint(authority.active.certificate),
        "TrustDomain": authority.trust_domain,
        "Roots": [_root(root, authority.trust_domain) for root in authority.roots],
    }


def _root(root: Root, trust_domain: str) -> dict[str, Any]:
    parsed = certificates.parsed(root.certificate)
    return {
        "ID": certificates.fingerprint(root.certificate),
        "Name": "Consul CA Root Cert",
        "SerialNumber": parsed.serial_number,
        "SigningKeyID": certificates.key_id(root.certificate),
        "ExternalTrustDomain": trust_domain.partition(".")[0],
        "NotBefore": spelled(parsed.not_valid_before_utc),
        "NotAfter": spelled(parsed.not_valid_after_utc),
        "RootCert": root.certificate,
        "IntermediateCerts": [root.cross_signed] if root.cross_signed else None,
        "Active": root.replaced_at is None,
        "PrivateKeyType": "ec",
        "PrivateKeyBits": 256,
        "CreateIndex": root.create_index,
        "ModifyIndex": root.modify_index,
    }


def leaf(found: Leaf) -> dict[str, Any]:
    """`/v1/agent/connect/ca/leaf/<service>`. Secret."""
    return {
        "SerialNumber": certificates.serial(found.certificate),
        "CertPEM": found.certificate,
        "PrivateKeyPEM": found.key,
        "Service": found.service,
        "ServiceURI": found.uri,
        "ValidAfter": spelled(found.begin),
        "ValidBefore": spelled(found.end),
        "CreateIndex": found.index,
        "ModifyIndex": found.index,
    }


def configuration(authority: Authority) -> dict[str, Any]:
    """`/v1/connect/ca/configuration`, but never with a key."""
    return {
        "Provider": "consul",
        "Config": {"LeafCertTTL": f"{authority.leaf_seconds:g}s"},
        "State": None,
        "ForceWithoutCrossSigning": False,
        "CreateIndex": authority.config_index,
        "ModifyIndex": authority.config_index,
    }


def intention(found: Intention) -> dict[str, Any]:
    """An element of `/v1/connect/intentions`."""
    said = {
        "Description": found.description,
        "SourceNS": "default",
        "SourceName": found.source,
        "DestinationNS": "default",
        "DestinationName": found.destination,
        "SourceType": "consul",
        "Action": found.action,
        **({"Permissions": found.permissions} if found.permissions else {}),
        "DefaultAddr": "",
        "DefaultPort": 0,
        "Meta": found.meta,
        "Precedence": found.precedence,
        "CreatedAt": found.created_at,
        "UpdatedAt": found.updated_at,
    }
    digest = base64.b64encode(hashlib.sha256(repr(sorted(said.items())).encode()).digest()).decode()
    return {
        "ID": found.id, **said, "Hash": digest, "CreateIndex": found.create_index, "ModifyIndex": found.modify_index
    }
