"""SCIM resources become profiles, and broken ones are told apart from the rest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from services.scim_provider import application, person
from services.sync import provider
from services.sync.model import Fault, Profile, sifted
from services.sync.scim import Malformed, page, profile


def user(**changes: Any) -> dict[str, Any]:
    return {"userName": "ada", "externalId": "E1", **changes}


def test_a_whole_user() -> None:
    resource = user(
        displayName="Ada Lovelace",
        active=False,
        emails=[{"value": "home@x.example"}, {"value": "work@x.example", "primary": True}],
        phoneNumbers=[{"value": "1"}, {"value": "2"}],
    )
    assert profile(resource) == Profile(
        user_name="ada", external_id="E1", display_name="Ada Lovelace", email="work@x.example", phone="1", active=False
    )


def test_a_bare_user_is_active() -> None:
    assert profile({"userName": "ada"}) == Profile(user_name="ada", active=True)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ({"formatted": "Ms. Ada", "givenName": "Ada"}, "Ms. Ada"),
        ({"givenName": "Ada", "familyName": "Lovelace"}, "Ada Lovelace"),
        ({"familyName": "Lovelace"}, "Lovelace"),
        (None, ""),
    ],
)
def test_the_name_stands_in_for_a_missing_display_name(name: object, shown: str) -> None:
    assert profile(user(name=name)).display_name == shown


@pytest.mark.parametrize(
    "resource",
    [
        None, [], "ada", {}, user(userName=""), user(userName=None), user(userName=7), user(userName="a\0"),
        user(userName="\ud800"), user(userName="x" * 401), user(externalId=1), user(active="yes"), user(active=None),
        user(emails="a@b"), user(emails=["a@b"]), user(emails=[{"value": 1}]), user(displayName="x" * 1001),
    ],
)  # fmt: skip
def test_a_malformed_user_is_refused(resource: object) -> None:
    with pytest.raises(Malformed):
        profile(resource)


def test_malformed_users_do_not_spoil_their_page() -> None:
    found = page({"totalResults": 9, "Resources": [user(), {}, user(userName="bob", externalId="E2")]}, 4)
    assert (found.index, found.total, found.size) == (4, 9, 3)
    profiles, faults = sifted(found.entries)
    assert [one.user_name for one in profiles] == ["ada", "bob"]
    assert faults == [Fault(reason="user 5: a user has no userName")]


@pytest.mark.parametrize("body", [None, [], {}, {"totalResults": "1"}, {"totalResults": 1, "Resources": {}},
                                  {"totalResults": -1}, {"totalResults": 10**30}])  # fmt: skip
def test_what_is_no_list_response_is_refused(body: object) -> None:
    with pytest.raises(Malformed):
        page(body, 1)


def test_users_are_found_again_by_external_id_else_by_name() -> None:
    assert Profile(user_name="ada", external_id="E1").match_key != Profile(user_name="E1").match_key
    assert Profile(user_name="ada", external_id="E1").match_key == Profile(user_name="bob", external_id="E1").match_key
    assert Profile(user_name="Ada").match_key == Profile(user_name="ADA").match_key
    assert Profile(user_name="straße").match_key != Profile(user_name="strasse").match_key


def test_of_equal_users_the_last_counts_and_all_are_sorted() -> None:
    rows = (("b", "2"), ("a", "1"), ("c", "2"))
    found, faults = sifted([Profile(user_name=name, external_id=key) for name, key in rows])
    assert [one.user_name for one in found] == ["a", "c"]
    assert [one.reason for one in faults] == ["b: comes more than once; the last one counts"]


@pytest.mark.parametrize(
    ("resource", "key"),
    [
        (user(active="yes"), "e:E1"), (user(userName=7), "e:E1"), ({"userName": "ada", "emails": 1}, "u:ada"),
        (user(externalId=7), ""), ({}, ""), (None, ""), ("ada", ""),
    ],
)  # fmt: skip
def test_a_malformed_user_is_known_by_what_can_be_read_of_its_names(resource: object, key: str) -> None:
    (fault,) = page({"totalResults": 1, "Resources": [resource]}, 1).entries
    assert isinstance(fault, Fault)
    assert fault.match_key == key


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None), ("3", 3.0), ("9999", 60.0), ("-1", None), ("1.5", None), ("\u0663", None), ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Wed, 21 Oct 2015 07:28:20 GMT", 10.0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 60.0), ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_honoured_in_both_forms_up_to_a_minute(value: str, seconds: float | None) -> None:
    assert provider.retry_after(value, datetime(2015, 10, 21, 7, 28, 10, tzinfo=UTC)) == seconds


def test_the_made_up_people_can_all_be_read_and_are_always_the_same() -> None:
    names = {profile(person(number).model_dump()).user_name for number in (1, 25, 2500)}
    assert names == {"user00001", "user00025", "user02500"}
    assert not profile(person(25).model_dump()).active
    assert person(7).id == person(7).id
    assert len(application(3).storage.resources) == 3  # type: ignore[attr-defined]
