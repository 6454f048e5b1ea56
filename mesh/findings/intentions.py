"""Whether it is known who may call whom, and whether anybody keeps to it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.commands import curl
from mesh.findings import bad, count, good
from mesh.findings.identity import AGAIN
from mesh.intentions import Intentions
from meshwright.check.v1.check_service_pb2 import Finding

_READ = "mesh logs sidecar  # says why: a token needs service:read, or intentions:read, for what is called"


def intentions(found: Intentions | None, problem: str, registry: str, *, secured: bool) -> Iterator[Finding]:
    """What is to be said of those in the registry at an address, None where they were never read.

    `secured`: on a mesh with TLS.
    """
    change = f"{curl(registry, 'connect/intentions')}  # and change it, or what service-intentions says in its place"
    if not secured:
        if found and found.held:
            text = f"{count(len(found.held), 'intention')} without effect: without mutual TLS nobody can tell who calls"
            yield bad("identity", text, AGAIN)
        return
    if found is None:
        yield bad("identity", "intentions were never read, and whoever starts is NOT_SERVING until they are", _READ)
        return
    default = "allowed" if found.default_allow else "denied"
    yield good("identity", f"{count(len(found.held), 'intention')}; what none is about is {default}")
    if problem:
        yield bad("identity", problem, change)
    for one in found.held:
        if one.fault:
            yield bad("identity", f"the intention {one} cannot be kept, so it denies all: {one.fault}", change)
