"""What one client holds of one resource type on one stream. Pure: messages in, messages out.

State of the world variant of https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from mesh.registry.model import EMPTY
from mesh.xds.snapshot import WHOLE, Resource, digest


class Answer(enum.Enum):
    """What a request says about the response before it."""

    FIRST = "first"
    """Nothing: the first request for this type on this stream."""

    ACK = "ack"
    """It was taken."""

    NACK = "nack"
    """It was refused."""

    NAMES = "names"
    """Neither: after a refusal, only the names count."""

    STALE = "stale"
    """It is about an older response; nothing in it counts."""


_TOGETHER = ""
REFUSED_LIMIT = 1000
"""Refused versions, of resources and of whole responses, that are remembered on one stream."""


@dataclass
class Subscription:
    """Names asked for, resources sent, versions accepted and refused."""

    type_url: str
    names: frozenset[str] | None = frozenset()
    """None for all resources of the type."""

    sent: Mapping[str, Resource] = field(default_factory=lambda: EMPTY)
    """The newest of each resource that was sent, but for one that was refused: none of them is sent again."""

    taken: Mapping[str, Resource] = field(default_factory=lambda: EMPTY)
    """The newest of each that it agreed to."""

    resuming: str = ""
    """The version that the client came back with, until something was compared with it."""

    acked_version: str = ""
    nack_count: int = 0
    last_nack: str = ""
    refused: bool = False
    """Whether its last word was no."""

    _refused: dict[tuple[str, str], None] = field(default_factory=dict)
    """Name and version; for several at once, of which nobody knows the bad one, no name and that of the response."""

    _offered: frozenset[str] = frozenset()
    """Names of what was sent since the last answer that counted."""

    _lacks: bool = False
    _version: str = ""
    _count: int = 0
    """The first request and the responses."""

    @property
    def settled(self) -> bool:
        """Whether the client has taken all that is available."""
        return not self._lacks and not self.resuming

    @property
    def nonce(self) -> str:
        """Of the last response; empty before the first."""
        return str(self._count) if self._count > 1 else ""

    def receive(self, request: DiscoveryRequest) -> Answer:
        """Take a request of the client."""
        if not self._count:
            return self._begin(request)
        if request.response_nonce != self.nonce:
            return Answer.STALE
        self._subscribe(request.resource_names)
        if request.HasField("error_detail"):
            return self._nack(request.error_detail.message)
        if request.version_info != self._version:
            return Answer.NAMES
        self.acked_version = self._version
        self.taken = {n: r for n, r in {**self.taken, **self._answered()}.items() if n in self.sent}
        self._lacks = self.refused = False
        return Answer.ACK

    def respond(self, available: Mapping[str, Resource], *, removals: bool = True) -> DiscoveryResponse | None:
        """What to send now that these are available, or None.

        With `removals` off, resources that are gone are kept until everything that refers to them has changed.
        """
        wanted = self._good(self._asked_of(available))
        if wanted == self.sent and not self.resuming:
            return None  # The common case, a hundred times for each change: it must cost no more than this.
        if self.type_url in WHOLE and not removals:
            wanted = {**{n: r for n, r in self.sent.items() if self._asked(n)}, **wanted}
        version = digest(f"{name} {wanted[name].version}".encode() for name in sorted(wanted))
        if self._resume(version, wanted):
            return None
        if (_TOGETHER, version) in self._refused:
            self._lacks = True
            return None
        changed = {n: r for n, r in wanted.items() if n not in self.sent or self.sent[n].version != r.version}
        gone = {name for name in self.sent if name not in wanted and self._asked(name)}
        self.sent = {n: r for n, r in self.sent.items() if n in wanted}
        if not changed and not (gone and self.type_url in WHOLE):
            return None
        return self._send(version, wanted if self.type_url in WHOLE else changed)

    def repeat(self, names: Iterable[str]) -> None:
        """Send these again with the next response, though nothing about them changed, and take nothing for held."""
        repeated, self.resuming = frozenset(names), ""
        self.sent = {name: resource for name, resource in self.sent.items() if name not in repeated}

    def _nack(self, message: str) -> Answer:
        """Count a refusal. A client takes what is good of a response, so only what was new alone is known as bad."""
        self.nack_count, self.last_nack, self.refused = self.nack_count + 1, message, True
        new = [r for n, r in self._answered().items() if self.taken.get(n) != r]
        bad = (new[0].name, new[0].version) if len(new) == 1 else (_TOGETHER, self._version)
        self._refused[bad] = None
        if len(self._refused) > REFUSED_LIMIT:
            del self._refused[next(iter(self._refused))]
        if len(new) == 1:
            others = {n: r for n, r in self.sent.items() if n != new[0].name}
            self.sent = others | {n: r for n, r in self.taken.items() if n == new[0].name}
        return Answer.NACK

    def _answered(self) -> Mapping[str, Resource]:
        """What an answer is about that counts; the next one is about what comes then."""
        offered, self._offered = self._offered, frozenset()
        return {n: r for n, r in self.sent.items() if n in offered}

    def _good(self, wanted: Mapping[str, Resource]) -> Mapping[str, Resource]:
        """What was refused once is replaced by what was taken before it, if anything was."""
        bad = {n for n, r in wanted.items() if (n, r.version) in self._refused} if self._refused else None
        if not bad:
            return wanted
        self._lacks = True
        return {n: r for n, r in wanted.items() if n not in bad} | {n: self.taken[n] for n in bad & self.taken.keys()}

    def _begin(self, request: DiscoveryRequest) -> Answer:
        """First request; after a reconnect it names the version that the client still holds."""
        self.resuming = request.version_info
        self.names = frozenset(request.resource_names)
        if self.type_url in WHOLE and (not self.names or "*" in self.names):
            self.names = None
        self._count += 1
        return Answer.FIRST

    def _subscribe(self, names: Iterable[str]) -> None:
        after = frozenset(names)
        goes_on_with_all = self.names is None and not after
        self.names = None if goes_on_with_all or "*" in after else after

    def _asked_of(self, available: Mapping[str, Resource]) -> Mapping[str, Resource]:
        """What the client asked for, by way of the smaller of the two."""
        if self.names is None or len(available) < len(self.names):
            return {name: resource for name, resource in available.items() if self._asked(name)}
        return {name: available[name] for name in self.names if name in available}

    def _asked(self, name: str) -> bool:
        return self.names is None or name in self.names

    def _resume(self, version: str, wanted: Mapping[str, Resource]) -> bool:
        """Whether the client came back with exactly what is available, so that nothing is to be sent."""
        resuming, self.resuming = self.resuming, ""
        if not resuming or resuming != version:
            return False
        self.sent, self._version, self.acked_version = dict(wanted), version, version
        self.taken = self.sent
        return True

    def _send(self, version: str, resources: Mapping[str, Resource]) -> DiscoveryResponse:
        self._count += 1
        self._version, self._lacks = version, True
        self.sent, self._offered = {**self.sent, **resources}, self._offered | resources.keys()
        return DiscoveryResponse(
            type_url=self.type_url,
            version_info=version,
            nonce=self.nonce,
            resources=[resources[name].body for name in sorted(resources)],
        )
