"""Where a watcher stands, what it wants, and the ring that watchers share."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import Refused
from meshwright.events.v1.event_pb2 import Event
from services.events.changes import MOST_WAITING, Inbox
from services.events.model import TYPES, Seen, Wanted
from services.events.ring import Ring
from services.events.stream import START, Entry
from services.order import store as orders
from services.sync import store as syncs


def event(number: int = 1, *, service: str = "order", kind: str = "order.created", subject: str = "") -> Event:
    return Event(service=service, number=number, type=kind, subject=subject)


@given(st.dictionaries(st.sampled_from(["order", "sync", "a-b"]), st.integers(1, 10**9)))
def test_what_was_seen_is_read_back_as_it_was_written(numbers: dict[str, int]) -> None:
    assert Seen.parse(str(Seen(numbers))) == Seen(numbers)


@pytest.mark.parametrize("text", ["", "order", "order-", "-1", "order-1,", "1732246-0", "order-1,order-2", "Order-1"])
def test_a_wrong_id_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        Seen.parse(text)


@pytest.mark.parametrize(
    ("seen", "number", "has", "misses"),
    [
        ("order-2", 2, True, False),
        ("order-2", 3, False, False),
        ("order-2", 4, False, True),
        ("sync-2", 9, False, False),
    ],
)
def test_numbers_tell_what_was_seen_and_what_is_missing(seen: str, number: int, has: bool, misses: bool) -> None:
    found = Seen.parse(seen)
    assert (found.has(event(number)), found.misses(event(number))) == (has, misses)


@pytest.mark.parametrize(
    ("types", "subject", "takes"),
    [
        ([], "", True),
        (["order"], "", True),
        (["order.created"], "", True),
        (["order.cancelled", "order.created"], "", True),
        (["user"], "", False),
        ([], "ab-1", True),
        ([], "AB-1", True),
        ([], "ab-2", False),
        (["user"], "ab-1", False),
    ],
)
def test_filters(types: list[str], subject: str, takes: bool) -> None:
    assert Wanted.of(types, subject).takes(event(subject="ab-1")) is takes


@pytest.mark.parametrize("name", ["order.crea", "Order", "order.", "", "user.succeeded", "person"])
def test_a_type_that_no_event_can_have_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(Refused) as caught:
        Wanted.of(["user", name], "")
    ((field, text),) = caught.value.violations
    assert field == "types[1]"
    assert {"order", "order.cancelled", "sync.succeeded", "user.deactivated"} <= set(text.split(" of ")[1].split(", "))


@pytest.mark.parametrize("migrations", [orders.MIGRATIONS, syncs.MIGRATIONS], ids=["orders", "sync"])
def test_every_type_that_triggers_write_can_be_asked_for(migrations: Path) -> None:
    written = set(re.findall(r"'((?:order|user|sync)\.\w+)'", "".join(map(Path.read_text, migrations.glob("*.sql")))))
    assert written
    assert written <= TYPES


def test_what_is_not_wanted_was_seen_all_the_same() -> None:
    wanted = Wanted.of(["user"], "")
    events = [event(1), event(7, service="sync", kind="user.created"), event(2)]
    ((taken, seen),) = wanted.among(events, Seen({}))
    assert (taken, str(seen)) == (events[1], "order-1,sync-7")


def entries(first: int, last: int) -> list[Entry]:
    return [Entry((number, 0), event(number)) for number in range(first, last + 1)]


def test_a_ring_serves_from_any_place_that_it_reaches() -> None:
    ring = Ring(4)
    assert ring.index(START) is None
    ring.begin((3, 0))
    ring.add(entries(4, 8))
    assert ring.index((2, 9)) is None
    assert ring.since(ring.index((3, 0)) or 0) == entries(4, 8)
    assert ring.since(ring.index((6, 5)) or 0) == entries(7, 8)
    assert ring.since(ring.index((8, 0)) or 0) == []


def test_a_ring_keeps_so_many_and_tells_who_came_too_late() -> None:
    ring = Ring(4)
    ring.begin(START)
    late = ring.index(START)
    for number in range(1, 8):
        ring.add(entries(number, number))
    assert late is not None
    assert ring.since(late) == entries(1, 7)
    ring.add(entries(8, 9))
    assert ring.since(late) is None
    assert ring.index((4, 0)) is None
    assert ring.since(ring.index((5, 0)) or 0) == entries(6, 9)


def test_a_ring_that_begins_anew_tells_everybody() -> None:
    ring = Ring(4)
    ring.begin(START)
    index = ring.index(START)
    ring.begin((9, 0))
    assert index is not None
    assert ring.since(index) is None


async def test_an_inbox_hands_over_what_came_and_tells_when_it_had_to_drop_some() -> None:
    inbox = Inbox()
    for number in (1, 2):
        inbox.put(event(number))
    assert await inbox.take() == [event(1), event(2)]
    for number in range(MOST_WAITING + 1):
        inbox.put(event(number))
    assert await inbox.take() is None
    inbox.put(event(3))
    assert await inbox.take() == [event(3)]
