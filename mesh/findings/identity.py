"""Who proves who they are: the certificates of the programs on this host, and those on the mesh without any. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from mesh.commands import curl
from mesh.findings import bad, count, good, warn
from mesh.findings.policies import removal
from mesh.policy import PREFIX
from mesh.registry.model import MUTUAL_TLS, TLS_META, Health, Instance
from meshwright.check.v1.check_service_pb2 import Finding

AGAIN: Final = "mesh down && mesh up  # as it was started, ports and all, but without --plaintext and MESH_MTLS=false"
"""The command that gives a mesh TLS."""

_REMEDY: Final = "mesh logs sidecar  # says why: a token needs service:write for it, and Connect must be on"


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
    return warn("identity", text, AGAIN)


def unproven(
    found: Mapping[str, Iterable[Instance]], permissive: Callable[[str], str], registry: str
) -> Iterator[Finding]:
    """Instances by service that speak no TLS, on a mesh that does; `permissive` says who lets them be called."""
    for service, instances in found.items():
        healthy = [i for i in instances if i.health is not Health.CRITICAL]
        plain = [i for i in healthy if i.meta.get(TLS_META) != MUTUAL_TLS]
        said = permissive(service)
        if said:
            yield _permissive(service, len(plain), len(healthy), removal(said, registry))
        elif plain:
            names = ", ".join(i.id for i in plain)
            text = f"{service} is not permissive, so nobody calls {names}: it speaks no TLS"
            yield bad("identity", text, permission(service, registry))


def _permissive(service: str, plain: int, healthy: int, remedy: str) -> Finding:
    text = f"PERMISSIVE: {service} may be called in plaintext"
    if plain:
        text += f", and {count(plain, 'instance')} of it can be called in no other way"
        return warn("identity", text, f"{remedy}  # when all of it serves TLS; or write it anew")
    now = "all of it serves TLS" if healthy else "it has no healthy instance"
    return warn("identity", f"{text}, though {now} now", f"{remedy}  # or write it anew, where that says more")


def permission(service: str, registry: str) -> str:
    """The command that lets a service be called in plaintext."""
    put = curl(registry, "kv", PREFIX + service, method="PUT", body='{"mutualTlsMode": "permissive"}')
    return f"{put}  # beside what else is to be there; or let it serve TLS"
