"""What Envoy refuses for services that cannot tell who calls is what intentions deny."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.rbac.v3.rbac_pb2 import Permission

from gateway.intentions import denied
from mesh.intentions import Intentions
from mesh.read_intentions import read
from mesh.registry.model import Intended

PATHS = ("/shop.v1.Shop/Get", "/shop.v1.Shop/Buy", "/shop.v1.Admin/Drop", "/other.v1.Other/Get")
L4: list[Any] = ["allow", "deny", "maybe", ""]
BUY = {"PathExact": PATHS[1]}
ALL = {"PathPrefix": "/"}
SHOP = {"PathPrefix": "/shop.v1."}
ADMIN = {"PathRegex": ".*/Drop"}
TABLES: list[list[tuple[str, Any]]] = [
    [("allow", BUY)],
    [("deny", BUY)],
    [("allow", BUY), ("deny", SHOP)],
    [("deny", ADMIN), ("allow", SHOP)],
    [("deny", BUY), ("allow", SHOP), ("deny", ALL)],
    [("allow", ALL), ("deny", BUY)],
    [("deny", {})],
    [("deny", {"Methods": ["("]})],
    [("deny", {"Methods": ["GET", "PUT"]}), ("deny", {"Methods": ["PUT", "POST"], **BUY}), ("allow", ALL)],
    [("allow", {"Methods": ["GET"]}), ("deny", {"Methods": ["POST"], **SHOP})],
]


def intended(source: dict[str, Any] | None, *, default_allow: bool) -> Intentions:
    held = () if source is None else ({"SourceName": "gateway", "DestinationName": "shop", **source},)
    return read(Intended(intentions=held, default_allow=default_allow))


def fits(rule: Permission, path: str) -> bool:
    """As Envoy has it; of what is made here."""
    kind = rule.WhichOneof("rule")
    if kind == "and_rules":
        return all(fits(one, path) for one in rule.and_rules.rules)
    if kind == "or_rules":
        return any(fits(one, path) for one in rule.or_rules.rules)
    if kind == "not_rule":
        return not fits(rule.not_rule, path)
    if kind == "header":
        return (rule.header.name, rule.header.string_match.exact) == (":method", "POST")
    if kind == "url_path":
        matcher = rule.url_path.path
        is_drop = bool(matcher.safe_regex.regex) and path.endswith("/Drop")
        return bool(path == matcher.exact or (matcher.prefix and path.startswith(matcher.prefix)) or is_drop)
    return bool(rule.any)


@pytest.mark.parametrize("default_allow", [False, True])
@pytest.mark.parametrize(
    "source",
    [
        None,
        *({"Action": action} for action in L4),
        *({"Permissions": [{"Action": a, "HTTP": http} for a, http in table]} for table in TABLES),
    ],
)
def test_envoy_refuses_what_is_denied(source: dict[str, Any] | None, default_allow: bool) -> None:
    intentions = intended(source, default_allow=default_allow)
    rules = denied("shop", intentions)
    assert bool(rules) is not intentions.allow_all("gateway", "shop")
    for path in PATHS:
        decision = intentions.decide("gateway", "shop", path)
        found = [by for by, rule in rules if fits(rule, path)]
        assert len(found) == (not decision.allowed), path
        assert all(says(by, decision.reason) for by in found), (found, decision.reason)


def says(by: str, reason: str) -> bool:
    """Whether the word of a rule is that of the reason."""
    name, _, number = by.replace("=>", " => ").partition("#")
    if by.startswith("default:"):
        return reason.startswith("denied by default")
    return f"the intention {name}" in reason and (f"permission {number} " in reason) is bool(number)


def test_nothing_is_sent_as_long_as_nobody_knows() -> None:
    assert denied("shop", None) == (("nobody-knows:gateway=>shop", Permission(any=True)),)
