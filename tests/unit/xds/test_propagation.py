"""When a client counts as even with the catalog, and since when it was behind."""

from __future__ import annotations

from mesh.xds.propagation import Propagation


def connected() -> Propagation:
    """A client that has taken what there was since 100 s."""
    made = Propagation()
    assert made.look(100, sent=True, settled=False, at=110) is None
    assert made.look(100, sent=False, settled=True, at=111) is None
    return made


def test_a_change_counts_until_the_client_has_taken_it() -> None:
    client = connected()
    assert client.look(200, sent=True, settled=False, at=201) is None
    assert client.look(200, sent=False, settled=False, at=202) is None
    assert client.look(200, sent=False, settled=True, at=203) == 3
    assert client.look(200, sent=False, settled=True, at=204) is None


def test_a_change_is_taken_when_what_follows_from_it_is() -> None:
    client = connected()
    client.look(200, sent=True, settled=False, at=201)
    assert client.look(200, sent=True, settled=False, at=202) is None
    assert client.look(200, sent=False, settled=True, at=205) == 5


def test_changes_that_overlap_count_from_the_first() -> None:
    client = connected()
    client.look(200, sent=True, settled=False, at=201)
    client.look(210, sent=True, settled=False, at=211)
    assert client.look(210, sent=False, settled=True, at=212) == 12


def test_a_change_that_does_not_concern_the_client_does_not_count() -> None:
    client = connected()
    assert client.look(200, sent=False, settled=True, at=201) is None
    assert client.look(200, sent=True, settled=False, at=300) is None, "it asked for more, and nothing changed"
    assert client.look(200, sent=False, settled=True, at=301) is None


def test_what_a_client_waits_for_counts_from_the_answer_of_the_registry() -> None:
    client = Propagation()
    assert client.look(100, sent=False, settled=True, at=150) is None
    client.look(151, sent=True, settled=False, at=152)
    assert client.look(151, sent=False, settled=True, at=153) == 2


def test_what_is_refused_does_not_count() -> None:
    client = connected()
    client.look(200, sent=True, settled=False, at=201)
    client.refuse()
    assert client.look(200, sent=False, settled=False, at=202) is None
    client.look(300, sent=True, settled=False, at=301)
    assert client.look(300, sent=False, settled=True, at=302) == 2
