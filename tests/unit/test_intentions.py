"""Which intention decides, and what: the order of precedence, permissions, the default, and what cannot be read."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.intentions import Intentions, service_of
from mesh.intentions_wire import from_message, to_message
from mesh.read_intentions import read
from mesh.registry import wire
from mesh.registry.model import Intended

GET = "/shop.v1.Shop/Get"


def said(source: str, destination: str, action: str = "", **more: Any) -> dict[str, Any]:
    return {"SourceName": source, "DestinationName": destination, "Action": action, **more}


def made(*intentions: dict[str, Any], default_allow: bool = False) -> Intentions:
    return read(Intended(intentions=intentions, default_allow=default_allow))


EVERY = [
    said("*", "*", "deny"), said("web", "*", "allow"), said("*", "order", "deny"), said("web", "order", "allow"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "destination", "intention", "precedence"),
    [
        ("web", "order", "web => order", 9),
        ("job", "order", "* => order", 8),
        ("web", "sync", "web => *", 6),
        ("job", "sync", "* => *", 5),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_most_precise_decides_in_whatever_order(
    source: str, destination: str, intention: str, precedence: int, turned: bool
) -> None:
    found = made(*(EVERY[::-1] if turned else EVERY)).decide(source, destination, GET)
    assert found.intention is not None
    assert (str(found.intention), found.intention.precedence) == (intention, precedence)
    assert found.allowed is (source == "web")
    assert intention in found.reason


def test_the_precedence_that_consul_says_counts() -> None:
    found = made(said("*", "order", "deny", Precedence=3), said("*", "*", "allow", Precedence=4))
    assert found.decide("web", "order", GET).allowed


@pytest.mark.parametrize("default", [False, True])
def test_without_an_intention_the_default_decides(default: bool) -> None:
    found = made(said("web", "sync", "allow" if not default else "deny"), default_allow=default)
    decision = found.decide("web", "order", GET)
    assert (decision.allowed, decision.is_default, decision.intention) == (default, True, None)
    assert "by default" in decision.reason


def test_what_no_permission_takes_is_denied_where_an_intention_about_all_services_hides_the_default() -> None:
    """As Consul's default may be to deny, though it answers that two services that nobody has may call each other."""
    held = [said("*", "*", "allow"), said("web", "order", Permissions=[permission("allow", PathExact=GET)])]
    found = read(wire.intended(held, default_allow=True))
    assert found.decide("web", "order", GET).allowed
    left = found.decide("web", "order", "/shop.v1.Shop/Buy")
    assert (left.allowed, left.is_default) == (False, True)
    assert found.decide("job", "order", GET).allowed


def test_what_is_about_one_service_is_all_that_it_needs() -> None:
    found = made(*EVERY).to("order")
    assert [str(one) for one in found.held] == ["web => order", "* => order", "web => *", "* => *"]
    assert [str(one) for one in made(*EVERY).to("sync").held] == ["web => *", "* => *"]


def permission(action: str, **http: Any) -> dict[str, Any]:
    return {"Action": action, "HTTP": http}


@pytest.mark.parametrize(
    ("http", "taken"),
    [
        ({"PathPrefix": "/"}, True),
        ({"PathExact": GET}, True),
        ({"PathExact": "/shop.v1.Shop"}, False),
        ({"PathPrefix": "/shop.v1.Shop/"}, True),
        ({"PathPrefix": "/shop.v2"}, False),
        ({"PathRegex": ".*/Get"}, True),
        ({"PathRegex": "/shop"}, False),
        ({"Methods": ["POST", "PUT"]}, True),
        ({"Methods": ["GET"]}, False),
        ({"Header": [{"Name": "Tenant", "Exact": "acme"}]}, True),
        ({"Header": [{"Name": "tenant", "Exact": "ACME", "IgnoreCase": True}]}, True),
        ({"Header": [{"Name": "tenant", "Exact": "acme", "Invert": True}]}, False),
        ({"Header": [{"Name": "tenant", "Prefix": "ac"}, {"Name": "tenant", "Suffix": "me"}]}, True),
        ({"Header": [{"Name": "tenant", "Regex": "a.*"}, {"Name": "tenant", "Contains": "x"}]}, False),
        ({"Header": [{"Name": "tenant", "Regex": "A.*", "IgnoreCase": True}]}, True),
        ({"Header": [{"Name": "tenant", "Present": True}]}, True),
        ({"Header": [{"Name": "other", "Present": True}]}, False),
        ({"Header": [{"Name": "other", "Present": True, "Invert": True}]}, True),
        ({"Header": [{"Name": "other", "Exact": "x", "Invert": True}]}, False),
    ],
)
def test_a_permission_takes_calls_by_path_verb_and_headers(http: dict[str, Any], taken: bool) -> None:
    found = made(said("web", "order", Permissions=[permission("allow", **http)]))
    decision = found.decide("web", "order", GET, {"tenant": "acme"})
    assert decision.allowed is taken
    assert decision.is_default is not taken
    assert decision.intention is not None
    assert decision.intention.looks_at_headers is ("Header" in http)


def test_the_first_permission_that_takes_the_call_decides() -> None:
    permissions = [permission("deny", PathExact=GET), permission("allow", PathPrefix="/")]
    found = made(said("web", "order", Permissions=permissions))
    assert not found.decide("web", "order", GET).allowed
    other = found.decide("web", "order", "/shop.v1.Shop/List")
    assert other.allowed
    assert "permission 2" in other.reason


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"Action": "maybe"}, "maybe"),
        ({"JWT": {"Providers": []}, "Action": "allow"}, "JWT"),
        ({"SourceType": "external", "Action": "allow"}, "external"),
        ({"Permissions": [{"Action": "allow", "JWT": {"Providers": []}}]}, "JWT"),
        ({"Permissions": [permission("allow", PathRegex="(")]}, "PathRegex"),
        ({"Permissions": [permission("allow", Cookie="x")]}, "Cookie"),
        ({"Permissions": [permission("deny", PathExact=GET), permission("perhaps", PathExact=GET)]}, "perhaps"),
        ({"Permissions": [permission("allow")]}, "HTTP: says nothing"),
        ({"Permissions": [{"Action": "allow"}]}, "HTTP: says nothing"),
        ({"Permissions": [permission("deny", Methods=["("])]}, "Methods: '('"),
        ({"Permissions": [permission("deny", Methods=["GET", "post"])]}, "Methods: 'post'"),
        *(
            ({"Permissions": [permission("deny", Header=[{"Name": name, "Present": True}])]}, f"'{name.lower()}' is")
            for name in ("Content-Type", "te", "grpc-timeout")
        ),
    ],
)
def test_an_intention_that_cannot_be_kept_as_it_is_meant_denies(more: dict[str, Any], fault: str) -> None:
    found = made({**said("web", "order"), **more}, default_allow=True)
    decision = found.decide("web", "order", GET)
    assert not decision.allowed
    assert fault in decision.reason


@pytest.mark.parametrize("key", ["SourcePeer", "SourceSamenessGroup", "SourceNS", "DestinationNS", "SourcePartition"])
def test_what_is_about_other_meshes_is_left_out(key: str) -> None:
    assert not made(said("web", "order", "allow", **{key: "elsewhere"})).held


@pytest.mark.parametrize("one", [{}, {"SourceName": "web"}, {"SourceName": 1, "DestinationName": "order"}])
def test_what_consul_does_not_answer_is_refused_as_a_whole(one: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="SourceName"):
        made(said("web", "order", "allow"), one)


def test_a_sidecar_tells_what_it_read() -> None:
    header = {"Name": "tenant", "Regex": "a.*", "Invert": True, "IgnoreCase": True}
    l7 = permission("allow", PathPrefix="/shop", Methods=["POST"], Header=[header])
    found = made(*EVERY, said("job", "order", Permissions=[l7]), said("x", "order", "maybe"), default_allow=True)
    assert from_message(to_message(found)) == found


@pytest.mark.parametrize(
    ("spiffe_id", "service"),
    [
        ("spiffe://x.consul/ns/default/dc/dc1/svc/order", "order"),
        ("spiffe://x.consul/ns/default/dc/dc1/svc/a%20b", "a b"),
        ("spiffe://x.consul/ap/default/ns/default/dc/dc1/svc/order", "order"),
        ("spiffe://x.consul/ns/other/dc/dc1/svc/order", ""),
        ("spiffe://x.consul/agent/client/dc/dc1/id/order", ""),
        ("spiffe://x.consul/ns/default/dc/dc1/svc/order/more", ""),
        ("", ""),
    ],
)
def test_who_calls_is_the_service_of_its_certificate(spiffe_id: str, service: str) -> None:
    assert service_of(spiffe_id) == service
