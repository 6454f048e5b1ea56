"""What `mesh explain --from` says: the decision, why, and whether anybody keeps to it."""

from __future__ import annotations

import pytest

from mesh.explain import show
from mesh.explain.intentions import permissibility
from mesh.findings.intentions import intentions
from mesh.intentions import Intention, Intentions, Permission
from mesh.policy import Match
from mesh.registry.model import Instance
from meshwright.sidecar.v1 import explanation_pb2 as pb

PATHS = ("/shop.v1.Shop/Get", "/shop.v1.Shop/Buy")
WHERE = "http://consul:8500/v1"
DENY = Intentions(held=(Intention(source="web", destination="shop"),), default_allow=True)


def instance(name: str, tls: str = "mutual") -> Instance:
    return Instance(service="shop", id=name, address="10.0.0.1", port=80, meta={"tls": tls} if tls else {})


def found(
    known: Intentions | None = DENY,
    *held: Instance,
    caller: str = "web",
    secured: bool = True,
) -> pb.Permissibility:
    return permissibility(caller, "shop", PATHS, known, held or (instance("a"),), secured=secured)


def test_one_verdict_for_all_methods_where_they_are_alike() -> None:
    (verdict,) = found().verdicts
    assert (verdict.method, verdict.allowed, verdict.intention, verdict.precedence) == ("", False, "web => shop", 9)
    assert (found().default, found().enforced) == ("allow", True)
    (verdict,) = found(caller="job").verdicts
    assert (verdict.allowed, verdict.intention, verdict.precedence) == (True, "", 0)


def test_one_for_each_method_where_they_differ() -> None:
    permission = Permission(allow=True, match=Match(path=PATHS[0]))
    held = (Intention(source="web", destination="shop", permissions=(permission,)),)
    verdicts = found(Intentions(held=held)).verdicts
    assert [(one.method, one.allowed) for one in verdicts] == [("shop.v1.Shop/Get", True), ("shop.v1.Shop/Buy", False)]


@pytest.mark.parametrize(
    ("given", "enforced", "words"),
    [
        (found(), True, "PERMISSION_DENIED"),
        (found(None), True, "UNAVAILABLE"),
        (found(DENY, secured=False), False, "this mesh is in plaintext"),
        (found(DENY, instance("a"), instance("b", "")), False, "b cannot tell who calls"),
        (found(DENY, instance("b", ""), caller="gateway"), True, "the gateway itself does not send"),
    ],
)
def test_what_comes_of_it(given: pb.Permissibility, enforced: bool, words: str) -> None:
    assert given.enforced is enforced
    assert words in given.effect


WANTED = '{"SourceType": "consul", "SourceName": "web", "DestinationName": "shop", "Action": "allow"}'
BY_HAND = (
    f"correct what is said of * => shop in the file that `curl -s {WHERE}/config/service-intentions/shop >"
    f" intentions.json` makes, then `curl -fsS -X PUT {WHERE}/config -d @intentions.json`"
)
PERMITS = Intention(source="*", destination="shop", permissions=(Permission(allow=False),))


@pytest.mark.parametrize(
    ("held", "secured", "remedy"),
    [
        (Intention(source="web", destination="shop", id="7"), True, f"-X PUT {WHERE}/connect/intentions/7 -d"),
        (Intention(source="*", destination="shop", id="8"), True, f"-X POST {WHERE}/connect/intentions -d '{WANTED}'"),
        (Intention(source="web", destination="shop"), True,
         f"-X PUT '{WHERE}/connect/intentions/exact?source=web&destination=shop' -d '{WANTED}'"),
        (PERMITS, True, BY_HAND),
        (Intention(source="job", destination="shop", id="9"), True, ""),
        (Intention(source="web", destination="shop", id="7"), False, ""),
    ],
)
def test_what_is_denied_has_the_command_that_lets_it(held: Intention, secured: bool, remedy: str) -> None:
    known = Intentions(held=(held,), default_allow=True)
    said = permissibility("web", "shop", PATHS, known, (instance("a"),), secured=secured, registry="http://consul:8500")
    assert remedy in said.remedy
    assert bool(said.remedy) == bool(remedy)


@pytest.mark.parametrize(
    ("caller", "names", "words"),
    [
        ("wbe", ("web",), "Nobody is registered as wbe now, so this is what holds for the name: did you mean web?"),
        ("web", ("shop", "web"), ""),
        ("gateway", ("shop", "web"), ""),
        ("wbe", (), ""),  # the registry does not tell
    ],
)
def test_a_caller_that_nobody_is_registered_as_is_told(caller: str, names: tuple[str, ...], words: str) -> None:
    said = permissibility(caller, "shop", PATHS, DENY, (instance("a"),), secured=True, names=names)
    assert said.stranger == words


def test_what_nobody_keeps_to_is_told_before_the_decision() -> None:
    for made, is_first in ((found(), False), (found(secured=False), True)):
        text = show.as_text(pb.Explanation(service="shop", intentions=made))
        assert (text.index("nforced: ") < text.index("may not")) is is_first


@pytest.mark.parametrize(
    ("known", "secured", "passed", "words"),
    [
        (DENY, True, [True], "1 intention; what none is about is allowed"),
        (None, True, [False], "never read"),
        (Intentions(held=(Intention(source="a", destination="b", fault="JWT"),)), True, [True, False], "JWT"),
        (DENY, False, [False], "without effect"),
        (Intentions(), False, [], ""),
        (None, False, [], ""),
    ],
)
def test_what_is_to_be_said_of_intentions(
    known: Intentions | None, secured: bool, passed: list[bool], words: str
) -> None:
    said = list(intentions(known, "", "http://consul:8500", secured=secured))
    assert [one.passed for one in said] == passed
    assert words in "".join(one.text for one in said)
