"""Those who depend on the sidecar: its xDS clients, and the programs that it keeps on the mesh. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from mesh.findings import bad, count, good
from mesh.xds.stream import Stream
from meshwright.check.v1.check_service_pb2 import Finding
from meshwright.sidecar.v1.sidecar_service_pb2 import AttachResponse

TOLD: Final = "`mesh check` says what to do"
"""Ends what is said of a program where another finding is about it too, and has the command that mends it."""


def subscriptions(streams: Iterable[Stream], server: str) -> Iterator[Finding]:
    """What clients hold, and what one refused."""
    held = tuple(streams)
    total = sum(len(stream.subscriptions) for stream in held)
    yield good("subscriptions", f"{count(len(held), 'client')} of the {server}, {count(total, 'subscription')}")
    for stream in sorted(held, key=lambda one: one.node.id):
        yield from _refusals(stream)


def _refusals(stream: Stream) -> Iterator[Finding]:
    """What it refused last; what it took another version of since is over."""
    who = f"{stream.node.id or 'a client without a name'} ({stream.user_agent or 'unknown'})"
    for type_url, subscription in sorted(stream.subscriptions.items()):
        what = type_url.rpartition(".")[2]
        names = ", ".join(sorted(subscription.names or ())) or "all"
        if subscription.refused:
            remedy = "mesh ps --wide  # what it holds: take back what changed last, or bring that client up to date"
            yield bad("subscriptions", f"{who} refused {what} of {names}: {subscription.last_nack}", remedy)
        elif subscription.nack_count:
            often = count(subscription.nack_count, "time")
            yield good("subscriptions", f"{who} refused {what} {often}, and took it since")


def programs(states: Iterable[tuple[str, str, int, str]]) -> Iterator[Finding]:
    """The programs that a sidecar keeps on the mesh: id, address, state and why that is so."""
    held = tuple(states)
    starting = [one for one in held if one[2] == AttachResponse.STATE_STARTING]
    yield good("sidecar", f"keeps {count(len(held) - len(starting), 'program')} on the mesh")
    for name, address, _, reason in starting:
        text = f"{name} is not on the mesh yet: {reason or 'it was not looked at yet'}"
        yield bad("sidecar", text, f"mesh ps  # is it the process at {address}? `mesh logs` says more", address)
    for name, _, state, reason in held:
        if reason and not reason.endswith(TOLD) and state == AttachResponse.STATE_SERVING:
            yield bad("sidecar", f"{name}: {reason}", "mesh logs sidecar  # stop it, and start it by its own name")
