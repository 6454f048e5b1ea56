"""A SCIM 2.0 user (RFC 7643) as a `Profile`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.sync.model import Fault, Profile

MAX_KEY = 400
"""Longest userName and externalId, so that an index can hold them."""
MAX_TOTAL = 100_000_000
"""Most users of one provider; who claims more does not count them."""
MAX_TEXT = 1000
"""Longest other text."""


class Malformed(ValueError):
    """A resource is no user that can be stored; says why."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Users from `index` on (1-based), and how many the provider says that there are in all."""

    index: int
    total: int
    entries: tuple[Profile | Fault, ...]
    """In the provider's order."""

    @property
    def size(self) -> int:
        """How many users it holds, readable or not."""
        return len(self.entries)

    @property
    def end(self) -> int:
        """Index of the first user after it."""
        return self.index + self.size


def page(body: Any, index: int) -> Page:
    """A ListResponse (RFC 7644, 3.4.2). Malformed when it is none."""
    if not isinstance(body, Mapping) or type(body.get("totalResults")) is not int:
        raise Malformed("the answer is no SCIM ListResponse")
    if not 0 <= body["totalResults"] <= MAX_TOTAL:
        raise Malformed(f"totalResults is {body['totalResults']:.3g}; it must be 0 to {MAX_TOTAL}")
    resources = body.get("Resources", [])
    if not isinstance(resources, list):
        raise Malformed("Resources is no list")
    entries = tuple(_entry(resource, index + place) for place, resource in enumerate(resources))
    return Page(index=index, total=body["totalResults"], entries=entries)


def _entry(resource: Any, number: int) -> Profile | Fault:
    try:
        return profile(resource)
    except Malformed as error:
        key = _key(resource)
        return Fault(reason=f"user {number}{f' ({key[2:82]})' if key else ''}: {error}", match_key=key)


def _key(resource: Any) -> str:
    """Whom a malformed user would be; empty when that cannot be told."""
    if not isinstance(resource, Mapping):
        return ""
    try:
        external_id = _text(resource, "externalId", MAX_KEY)
        user_name = "" if external_id else _text(resource, "userName", MAX_KEY)
    except Malformed:
        return ""
    return Profile(user_name=user_name, external_id=external_id).match_key if external_id or user_name else ""


def profile(resource: Any) -> Profile:
    """The profile of a User resource. Malformed when it has no userName, or a value of a wrong type."""
    if not isinstance(resource, Mapping):
        raise Malformed("a user is no object")
    user_name = _text(resource, "userName", MAX_KEY)
    if not user_name:
        raise Malformed("a user has no userName")
    active = resource.get("active", True)
    if not isinstance(active, bool):
        raise Malformed("active is neither true nor false")
    return Profile(
        user_name=user_name,
        external_id=_text(resource, "externalId", MAX_KEY),
        display_name=_text(resource, "displayName") or _name(resource.get("name")),
        email=_primary(resource, "emails"),
        phone=_primary(resource, "phoneNumbers"),
        active=active,
    )


def _text(resource: Mapping[str, Any], name: str, longest: int = MAX_TEXT) -> str:
    value = resource.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"{name} is no text")
    if len(value) > longest or "\0" in value or not _encodable(value):
        raise Malformed(f"{name} is longer than {longest} characters or has some that cannot be stored")
    return value


def _encodable(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _name(name: Any) -> str:
    if not isinstance(name, Mapping):
        return ""
    whole = _text(name, "formatted")
    return whole or " ".join(filter(None, (_text(name, "givenName"), _text(name, "familyName"))))


def _primary(resource: Mapping[str, Any], name: str) -> str:
    values = resource.get(name) or []
    if not isinstance(values, Sequence) or not all(isinstance(value, Mapping) for value in values):
        raise Malformed(f"{name} is no list of objects")
    chosen = next((value for value in values if value.get("primary") is True), values[0] if values else {})
    return _text(chosen, "value")
