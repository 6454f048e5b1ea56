"""The certificates of the programs on this host: whether each has one that is valid. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from mesh.findings import bad, count, good
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
