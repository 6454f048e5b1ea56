"""Which instances a client reaches over mutual TLS, and how it proves them. Pure.

Certificates come from the client's own bootstrap (gRFC A29), so nothing secret is sent.
"""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, UpstreamTlsContext
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from mesh.bootstrap import PROVIDER
from mesh.registry.model import MUTUAL_TLS, TLS_META, Instance
from mesh.xds.parts import packed

Group = tuple[Instance, ...]


def secured(groups: Iterable[Group]) -> tuple[bool, tuple[Group, ...]]:
    """Whether a destination is reached over TLS, and the instances that are left of it.

    A client takes one way for a whole cluster: that of the first group with any instance, by priority. Where one in it
    demands TLS the others are left out: it is never given up for the sake of one that does not speak it. Groups behind
    it keep the instances that speak the same.
    """
    held = tuple(groups)
    first: Group = next(filter(None, held), ())
    demanded = any(map(_demands_tls, first))
    return demanded, tuple(map(speaking if demanded else _without, held))


def speaking(group: Group) -> Group:
    """Those of some instances that demand mutual TLS."""
    return tuple(filter(_demands_tls, group))


def _without(group: Group) -> Group:
    return tuple(instance for instance in group if not _demands_tls(instance))


def transport_socket(ids: Iterable[str]) -> TransportSocket:
    """TLS with the client's own certificate, to a server that proves to be one of these SPIFFE ids.

    `match_subject_alt_names` is deprecated, and the only one that C-core enforces: it ignores its typed successor, and
    would take any certificate of the mesh (seen with grpcio 1.85.1).
    """
    provider = {"instance_name": PROVIDER}
    validation = CertificateValidationContext(
        ca_certificate_provider_instance=provider,
        match_subject_alt_names=[StringMatcher(exact=one) for one in ids],
    )
    tls = CommonTlsContext(tls_certificate_provider_instance=provider, validation_context=validation)
    config = packed(UpstreamTlsContext(common_tls_context=tls))
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=config)


def _demands_tls(instance: Instance) -> bool:
    return instance.meta.get(TLS_META) == MUTUAL_TLS
