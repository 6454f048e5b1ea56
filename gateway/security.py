"""How Envoy proves the edge to services that demand it, and how they prove themselves. Pure.

Envoy reads certificate and key from the files of the edge's identity by itself, and again when their folder changes, so
nothing secret is sent to it or shown by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.core.v3.config_source_pb2 import ApiVersion, ConfigSource, PathConfigSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext, SubjectAltNameMatcher
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, UpstreamTlsContext
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from mesh.identity_files import CERTIFICATE, KEY, ROOTS
from mesh.xds.parts import packed

EDGE: Final = "gateway"
"""The service that the edge is."""

_CERTIFICATE, _ROOTS = "certificate.json", "roots.json"
_SECRET: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def secrets(folder: Path) -> dict[str, str]:
    """Files, by name, that lead Envoy to those in the folder of an identity; they hold no secret themselves."""
    watched = {"path": str(folder)}
    chain, key = ({"filename": str(folder / name)} for name in (CERTIFICATE, KEY))
    certificate = {"certificate_chain": chain, "private_key": key, "watched_directory": watched}
    roots = {"trusted_ca": {"filename": str(folder / ROOTS)}, "watched_directory": watched}
    return {
        _CERTIFICATE: _secret(_CERTIFICATE, {"tls_certificate": certificate}),
        _ROOTS: _secret(_ROOTS, {"validation_context": roots}),
    }


def _secret(name: str, content: dict[str, Any]) -> str:
    return json.dumps({"resources": [{"@type": _SECRET, "name": name, **content}]})


def transport_socket(ids: Iterable[str], folder: Path, *, http1: bool) -> TransportSocket:
    """TLS with the edge's certificate, to a server that proves to be one of these SPIFFE ids."""
    uri = SubjectAltNameMatcher.URI
    names = [SubjectAltNameMatcher(san_type=uri, matcher=StringMatcher(exact=one)) for one in ids]
    validation = CommonTlsContext.CombinedCertificateValidationContext(
        default_validation_context=CertificateValidationContext(match_typed_subject_alt_names=names),
        validation_context_sds_secret_config=_at(folder, _ROOTS),
    )
    tls = CommonTlsContext(
        tls_certificate_sds_secret_configs=[_at(folder, _CERTIFICATE)],
        combined_validation_context=validation,
        alpn_protocols=["http/1.1" if http1 else "h2"],
    )
    config = packed(UpstreamTlsContext(common_tls_context=tls))
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=config)


def _at(folder: Path, name: str) -> SdsSecretConfig:
    path = PathConfigSource(path=str(folder / name))
    source = ConfigSource(path_config_source=path, resource_api_version=ApiVersion.V3)
    return SdsSecretConfig(name=name, sds_config=source)
