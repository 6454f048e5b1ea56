"""Status as the contract has it. Pure."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from mesh.registry import Health, Instance
from meshwright.events.v1.event_pb2 import Event
from meshwright.status.v1 import status_pb2
from services.status.model import of_consumer, started
from services.timestamps import timestamp

if TYPE_CHECKING:
    from datetime import datetime

    from services.events.group import Letter, Standing
    from services.status.model import Component, Queue, Service, Totals

_HEALTH = {
    Health.PASSING: status_pb2.HEALTH_PASSING,
    Health.WARNING: status_pb2.HEALTH_WARNING,
    Health.CRITICAL: status_pb2.HEALTH_CRITICAL,
}


def health(value: Health) -> status_pb2.Health.ValueType:
    """A health."""
    return _HEALTH[value]


def service(found: Service, now: datetime) -> status_pb2.Service:
    """A service with its instances."""
    return status_pb2.Service(
        name=found.name,
        health=health(found.health),
        instances=[_instance(instance, now) for instance in found.instances],
    )


def component(found: Component) -> status_pb2.Component:
    """Something that the services stand on."""
    message = status_pb2.Component(name=found.name, health=health(found.health), error=found.error)
    if found.latency_seconds is not None:
        message.latency.CopyFrom(_duration(found.latency_seconds))
    return message


def totals(found: Totals) -> status_pb2.Totals:
    """The totals that are known."""
    message = status_pb2.Totals()
    if found.users is not None:
        message.users = found.users.get("users", 0)
    if found.orders is not None:
        message.orders = sum(found.orders.values())
        message.orders_by_state.update({f"STATE_{state}": number for state, number in found.orders.items()})
    return message


def queue(found: Queue, now: datetime) -> status_pb2.Queue:
    """Work that waits."""
    return status_pb2.Queue(
        name=found.name,
        waiting=found.waiting,
        oldest_age=None if found.oldest is None else _since(found.oldest, now),
        health=health(found.health(now)),
    )


def consumer(found: Standing, now: datetime) -> status_pb2.Consumer:
    """A group of consumers."""
    return status_pb2.Consumer(
        name=found.name,
        health=health(of_consumer(found, now)),
        waiting=found.waiting,
        in_hand=found.in_hand,
        oldest_age=None if found.oldest is None else _since(found.oldest, now),
        dead_letters=found.dead,
        newest_dead_letters=map(_dead_letter, found.letters),
    )


def _dead_letter(found: Letter) -> status_pb2.DeadLetter:
    """An event that was given up; bytes that are none have no id and no type."""
    event = Event()
    with suppress(DecodeError):
        event.ParseFromString(found.raw)
    return status_pb2.DeadLetter(
        id=found.place.decode(),
        event_id=event.id,
        event_type=event.type,
        stream=found.stream,
        reason=found.reason,
        deliveries=found.count,
        time=timestamp(found.time),
    )


def _instance(found: Instance, now: datetime) -> status_pb2.Instance:
    host = f"[{found.address}]" if ":" in found.address else found.address
    began = started(found)
    return status_pb2.Instance(
        id=found.id,
        address=f"{host}:{found.port}",
        zone=found.meta.get("zone", ""),
        health=health(found.health),
        output=found.output,
        version=found.meta.get("version", ""),
        start_time=timestamp(began),
        uptime=None if began is None else _since(began, now),
    )


def _since(moment: datetime, now: datetime) -> Duration:
    """How long ago a moment was; 0 for one that another host's clock has in the future."""
    return _duration(max(0.0, (now - moment).total_seconds()))


def _duration(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message
