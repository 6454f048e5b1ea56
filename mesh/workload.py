"""One local process on the mesh: its health becomes its place in the registry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

from mesh import contract as contracts
from mesh.contract import Contract
from mesh.describe import Described, describe
from mesh.errors import Code, Error, Refused
from mesh.health import Health as Following
from mesh.health import Verdict
from mesh.identity import Proof
from mesh.latest import Latest, with_newest
from mesh.local_channel import dial
from mesh.offer import Offer
from mesh.policy import compiled
from mesh.ports import with_port
from mesh.recovery import Backoff, Failures, sleep
from mesh.registry.model import MESH_TAG, METRICS_META, MUTUAL_TLS, TLS_META, Health, Registration, Registry, is_ip
from mesh.scope import Scope
from mesh.targets import Target
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb

State = pb.AttachResponse.State

PUSH_SECONDS = 1.0
"""Between the failing check and the deregistration: time for every sidecar to tell its clients.

A fixed time, as those who call are behind sidecars and gateways that this one knows nothing of: that its own clients
have taken the change says nothing about them, and whoever missed the failing check takes the instance for lost.
"""

LOOK_SECONDS = 1.0
"""How long a program may take to accept a connection at the port of its metrics."""

_PROTOCOLS = ("grpc", "http")
_HOPELESS = (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION)
"""What the registry or the contract says no to, however often it is asked."""

_DESCRIBE_RETRIES = 3
"""How often reflection is asked again before a program counts as one without."""

_BACKOFF = Backoff(first_seconds=0.2, limit_seconds=5.0)
DENIED = Backoff(first_seconds=0.5, limit_seconds=30.0)
"""When the registry refuses the token, until people change that."""

_NO_CERTIFICATE = "it waits for its certificate: `mesh check` says why there is none yet"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workload:
    """What is to be put on the mesh, checked."""

    registration: Registration
    protocol: str = "grpc"
    is_secured: bool = False
    """Whether it demands mutual TLS."""

    files: tuple[FileDescriptorProto, ...] = field(default=(), hash=False)
    service_config: str = ""

    @classmethod
    def of(cls, message: pb.Workload) -> Workload:
        """The workload of a request; Refused with every fault."""
        if found := list(_faults(message)):
            raise Refused.of(found)
        protocol = message.protocol or "grpc"
        meta = {**message.meta, "protocol": protocol, **({"zone": message.zone} if message.zone else {})}
        registration = Registration(
            service=message.service, id=message.id, address=message.address, port=message.port,
            tags=(MESH_TAG, *(tag for tag in message.tags if tag != MESH_TAG)), meta=meta,
        )
        files = FileDescriptorSet.FromString(message.descriptors).file
        is_secured = meta.get(TLS_META) == MUTUAL_TLS
        return cls(registration, protocol, is_secured, tuple(files), message.service_config)


def _faults(message: pb.Workload) -> Iterable[tuple[str, str]]:
    for name in ("service", "id", "address"):
        if not getattr(message, name):
            yield name, "is required"
    if message.address and not is_ip(message.address):
        yield "address", f"{message.address!r} is not an IP address; gRPC takes no host names from xDS"
    if not 0 < message.port < 65536:
        yield "port", f"{message.port} is not a port from 1 to 65535"
    if message.protocol and message.protocol not in _PROTOCOLS:
        yield "protocol", f"{message.protocol!r} is none of {', '.join(_PROTOCOLS)}"
    try:
        FileDescriptorSet.FromString(message.descriptors)
    except DecodeError:
        yield "descriptors", "is not a serialized google.protobuf.FileDescriptorSet"


class Attachment:
    """Keeps one workload on the mesh: `keep` until it is cancelled, then `take_out`."""

    def __init__(
        self,
        workload: Workload,
        registry: Registry,
        published: Callable[[str], bytes | None],
        proof: Latest[Proof | None] | None = None,
        remark: Callable[[bool], str] = lambda serves: "",
    ) -> None:
        """`remark` says what people should know of it, by whether it serves; nothing for most."""
        self.state: Latest[tuple[State.ValueType, str]] = Latest((pb.AttachResponse.STATE_STARTING, ""))
        self._workload, self._registry, self._proof, self._remark = workload, registry, proof, remark
        self._registration = workload.registration
        self._registered = False
        self._joined = False
        self._contract: Contract | None = None
        self._offer = Offer(workload.registration, registry, published)

    @property
    def id(self) -> str:
        """Id of the instance."""
        return self._registration.id

    @property
    def service(self) -> str:
        """Name of the service, whether it is registered under it yet or not."""
        return self._registration.service

    @property
    def address(self) -> str:
        """Host and port of the instance."""
        return with_port(self._registration.address, self._registration.port)

    @property
    def target(self) -> Target | None:
        """Where it serves metrics, if it does and the registry knows of it."""
        said = self._registration
        if not self._registered or METRICS_META not in said.meta:
            return None
        labels = {"job": said.service, "id": said.id, "zone": said.meta.get("zone", "")}
        return Target(address=with_port(said.address, int(said.meta[METRICS_META])), labels=labels)

    async def keep(self) -> None:
        """Follow the health of the workload and keep the registry up to date, whatever happens to that.

        `state` changes when the registry has taken it. Raises what no further try can mend: INVALID_ARGUMENT when the
        registry refuses the registration or the contract cannot be in force, FAILED_PRECONDITION when a descriptor
        is missing.
        """
        where = self._registration
        health = Following(where.address, where.port, protocol=self._workload.protocol)
        async with Scope() as scope:
            scope.start(self._follow(health), name=f"health of {where.id}")
            scope.start(self._offer.follow(), name=f"contract of {where.id}")
            async for verdict in health.verdict.changes(every_seconds=where.ttl_seconds / 6):
                if self._registered or verdict.serving:
                    await self._report(verdict)
                    self._become(_state(verdict), self._reason(verdict))
                else:
                    self.state.set((pb.AttachResponse.STATE_STARTING, self._reason(verdict)))

    async def _follow(self, health: Following) -> None:
        """Look at its health: over TLS where it demands that, as soon as there is a certificate for it."""
        if self._proof is None:
            await health.follow()
            return

        async def secured(proof: Proof | None) -> None:
            if proof is None:
                self.state.set((pb.AttachResponse.STATE_STARTING, _NO_CERTIFICATE))
            else:
                await health.follow(proof)

        await with_newest(self._proof, secured)

    def _reason(self, verdict: Verdict) -> str:
        remark = self._remark(verdict.serving)
        return self._offer.objection or remark if verdict.serving else "; ".join(filter(None, (verdict.reason, remark)))

    def _become(self, state: State.ValueType, reason: str) -> None:
        before = self.state.value[0]
        self.state.set((state, reason))
        if (before, state) == (pb.AttachResponse.STATE_SERVING, pb.AttachResponse.STATE_NOT_SERVING):
            _log.warning("%s is out of rotation: %s", self.id, reason)
        elif (before, state) == (pb.AttachResponse.STATE_NOT_SERVING, pb.AttachResponse.STATE_SERVING):
            _log.info("%s is in rotation again", self.id)

    async def take_out(self, reason: str, is_newest: Callable[[], bool]) -> None:
        """Fail the check with a reason that callers know as a departure, then deregister.

        Stops where `is_newest` says that the same instance attached again. Gives up when the registry is away: the
        TTL does it then.
        """
        try:
            if self._registered and is_newest():
                await self._registry.report(self.id, Health.CRITICAL, reason)
                await sleep(PUSH_SECONDS)
            if is_newest():
                await self._registry.deregister(self.id)
        except Error as error:
            _log.warning("%s is left to its TTL: %s", self.id, error)

    async def _report(self, verdict: Verdict) -> None:
        """Bring the registry up to date, for as long as that takes; one that forgot is told everything again."""
        health = Health.PASSING if verdict.serving else Health.CRITICAL
        output = "" if verdict.serving else f"not serving: {verdict.reason}"
        failures, told = Failures(), ""
        while True:
            try:
                if not self._registered:
                    await self._publish()
                    await self._look_for_metrics()
                    await self._registry.register(self._registration)
                    self._registered = self._joined = True
                await self._registry.report(self.id, health, output)
                return
            except Error as error:
                if error.code in _HOPELESS:
                    raise
                forgotten = error.code is Code.NOT_FOUND
                self._registered = self._registered and not forgotten
                if error.message != told:
                    _log.warning("%s: %s Trying again.", self.id, told := error.message)
                if self.state.value[0] == pb.AttachResponse.STATE_STARTING:
                    self.state.set((pb.AttachResponse.STATE_STARTING, error.message))
                if not forgotten:
                    await failures.wait(DENIED if error.code is Code.PERMISSION_DENIED else _BACKOFF)

    async def _publish(self) -> None:
        """Publish the contract if that is its right; one that cannot be in force is refused.

        A token that may not write it costs callers the policy, and the edge its REST API, but not the instance.
        """
        if self._workload.protocol != "grpc":
            return
        self._contract = self._contract or await self._read_contract()
        compiled(self._registration.service, self._contract)
        self._offer.take(self._contract)
        try:
            await self._offer.join(again=self._joined)
        except Error as error:
            if error.code is not Code.PERMISSION_DENIED:
                raise
            _log.warning("the contract of %s is not published: %s", self._registration.service, error)
        said = self._workload.registration
        self._registration = replace(said, meta={**said.meta, **self._offer.meta})

    async def _look_for_metrics(self) -> None:
        """Say where it serves metrics only if it does: not every program takes the port that it was given."""
        said = self._registration
        if not await _listens(said.address, said.meta.get(METRICS_META, "")):
            meta = {key: value for key, value in said.meta.items() if key != METRICS_META}
            self._registration = replace(said, meta=meta)

    async def _read_contract(self) -> Contract:
        """What reflection says, with the given files and metadata in place of what it says about them."""
        given, failures = self._workload.files, Failures()
        while True:
            try:
                described = await self._describe()
                break
            except Error as error:
                if error.code is Code.UNIMPLEMENTED or failures.count >= _DESCRIBE_RETRIES:
                    _log.log(logging.DEBUG if given else logging.WARNING, "%s: %s", self.id, error.message)
                    described = Described(services=contracts.services_in(given))
                    break
                await failures.wait(_BACKOFF)
        return Contract.of(
            described.services, (*described.files, *given), self._workload.service_config,
            reports_load=self._registration.meta.get("load", "orca" if described.reports_load else "") == "orca",
        )  # fmt: skip

    async def _describe(self) -> Described:
        target = f"{self._registration.address}:{self._registration.port}"
        async with dial(target, self._proof.value if self._proof else None) as channel:
            return await describe(channel)


async def _listens(address: str, port: str) -> bool:
    if not port.isdecimal():
        return False
    with suppress(OSError, OverflowError, TimeoutError):
        async with asyncio.timeout(LOOK_SECONDS):
            _, writer = await asyncio.open_connection(address, int(port))
        writer.close()
        return True
    return False


def _state(verdict: Verdict) -> State.ValueType:
    return pb.AttachResponse.STATE_SERVING if verdict.serving else pb.AttachResponse.STATE_NOT_SERVING
