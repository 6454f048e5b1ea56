"""The registry: whether it answers, what time it has, and whether its instances are healthy. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from mesh.commands import curl
from mesh.errors import Code, Error
from mesh.findings import bad, count, good
from mesh.registry.model import Health, Instance
from meshwright.check.v1.check_service_pb2 import Finding

TOLERATED: Final = timedelta(seconds=1)
"""How far the clocks may be apart."""

_PASSING: Final = ("leaving", "exited")
"""What the check of an instance says that is about to be deregistered."""


def answering(address: str, services: Iterable[str]) -> Finding:
    """It answers."""
    return good("registry", f"{address} answers, and has {count(len(list(services)), 'service')} on the mesh")


def silent(address: str, error: Error) -> Iterator[Finding]:
    """It does not, so that other things cannot be looked at."""
    if error.code is Code.PERMISSION_DENIED:
        remedy = "CONSUL_HTTP_TOKEN=... mesh restart sidecar  # with a token that may do what the message names"
    else:
        remedy = f"mesh restart registry  # where `mesh up` runs it; else start the Consul at {address}"
    yield bad("registry", error.message, remedy)
    for group in ("instances", "clock"):
        yield bad(group, "not known, as the registry does not tell", remedy)


def clock(before: datetime, told: datetime | None, after: datetime) -> Finding:
    """How far this clock is at least from the registry's, which told the time, to the second, between two moments."""
    if told is None:
        return good("clock", "the registry does not tell the time")
    ahead = max(before - (told + timedelta(seconds=1)), timedelta())
    behind = max(told - after, timedelta())
    if max(ahead, behind) <= TOLERATED:
        return good("clock", "within a second of the registry's")
    off, way = max((ahead, "ahead of"), (behind, "behind"))
    text = f"at least {off.total_seconds():.0f} s {way} the registry's: times of instances and spans will not fit"
    return bad("clock", text, "sudo timedatectl set-ntp true  # on this host, or on the registry's")


def instances(found: Mapping[str, tuple[Instance, ...]], registry: str) -> Iterator[Finding]:
    """The instances of every service on the mesh."""
    sick = [i for held in found.values() for i in held if i.health is Health.CRITICAL and not _goes(i)]
    well = sum(i.health is not Health.CRITICAL for held in found.values() for i in held)
    served = sum(any(i.health is not Health.CRITICAL for i in held) for held in found.values())
    if well or not sick:
        yield good("instances", f"{count(well, 'healthy instance')} of {count(served, 'service')}")
    for instance in sick:
        yield _sick(instance, found[instance.service], registry)


def _goes(instance: Instance) -> bool:
    return instance.output.startswith(_PASSING)


def _sick(instance: Instance, others: tuple[Instance, ...], registry: str) -> Finding:
    alone = all(other.health is Health.CRITICAL for other in others)
    end = f", and {instance.service} has no healthy one: its calls fail" if alone else ""
    host = f"[{instance.address}]" if ":" in instance.address else instance.address
    text = f"{instance.id} is critical: {instance.output or 'its check says nothing'}{end}"
    show = f"{curl(registry, 'health/service', instance.service)}  # which node it is on"
    return bad("instances", text, show, f"{host}:{instance.port}")
