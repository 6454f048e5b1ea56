"""Who proves who they are: the certificates of the programs on this host, and those on the mesh without any. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from mesh.findings import bad, count, good, warn
from mesh.findings.policies import removal
from mesh.registry.model import MUTUAL_TLS, TLS_META, Health, Instance
from meshwright.check.v1.check_service_pb2 import Finding

_REMEDY = "mesh logs sidecar  # says why: a token needs service:write for it, and Connect must be on"


def identities(ends: Mapping[str, datetime | None], now: datetime) -> Iterator[Finding]:
    """Until when each service has a certificate; None for one that has none."""
    valid = [end for end in ends.values() if end and end > now]
    if valid:
        soonest = min(valid).isoformat(timespec="seconds")
        yield good("identity", f"{count(len(valid), 'certificate')}, the first of which is renewed before {soonest}")
    for service, end in ends.items():
        if end is None:
            yield bad("identity", f"{service} has no certificate: it can neither call nor be called", _REMEDY)
        elif end <= now:
            when = end.isoformat(timespec="seconds")
            yield bad("identity", f"the certificate of {service} expired at {when}: its connections fail", _REMEDY)


def plaintext_mesh() -> Finding:
    """What is to be said of a sidecar without certificates."""
    text = "PLAINTEXT: calls on this host are not encrypted, and nobody proves who they are"
    return warn("identity", text, "mesh down && mesh up  # without --plaintext and MESH_MTLS=false")


def unproven(
    found: Mapping[str, Iterable[Instance]], permissive: Callable[[str], str], registry: str
) -> Iterator[Finding]:
    """Instances by service that speak no TLS, on a mesh that does; `permissive` says who lets them be called."""
    for service, instances in found.items():
        plain = [i for i in instances if i.health is not Health.CRITICAL and i.meta.get(TLS_META) != MUTUAL_TLS]
        said = permissive(service)
        if said:
            number = count(len(plain), "instance")
            text = f"PERMISSIVE: {service} may be called in plaintext, and {number} of it can be called in no other way"
            yield warn("identity", text, f"{removal(said, registry)}  # when all of it serves TLS; or write it anew")
        elif plain:
            names = ", ".join(i.id for i in plain)
            text = f"{service} is not permissive, so nobody calls {names}: it speaks no TLS"
            yield bad("identity", text, permission(service, registry))


def permission(service: str, registry: str) -> str:
    """The command that lets a service be called in plaintext."""
    body = '{"mutualTlsMode": "permissive"}'
    return f"curl -fsS -X PUT {registry}/v1/kv/mesh/service-config/{service} -d '{body}'  # or let it serve TLS"
