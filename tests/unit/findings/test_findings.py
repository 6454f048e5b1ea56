"""What is said to be well or wrong, and what is said to mend it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from google.rpc.status_pb2 import Status

from mesh.checking import each
from mesh.errors import Code, Error
from mesh.findings import bad, good, show
from mesh.findings.clients import TOLD, programs, subscriptions
from mesh.findings.identity import plaintext_mesh, unproven
from mesh.findings.intentions import intentions
from mesh.findings.names import misnamed
from mesh.findings.policies import Published, contracts, edge_objections, policies
from mesh.findings.processes import Process, processes
from mesh.findings.programs import programs as asked_of
from mesh.findings.registry import clock, instances, silent
from mesh.findings.targets import deserted, unmatched
from mesh.intentions import Intention, Intentions, Permission
from mesh.policy import Match
from mesh.read_intentions import read
from mesh.registry.model import MUTUAL_TLS, TLS_META, Health, Instance, Intended
from mesh.rules import Rules
from mesh.xds.snapshot import CLUSTER, Snapshot, pack
from mesh.xds.stream import Stream
from meshwright.check.v1.check_service_pb2 import Finding
from meshwright.sidecar.v1.sidecar_service_pb2 import AttachResponse
from tests.unit.policy.tables import config, contract, entries, resolver, route, router, splitter

HANGS = [
    Process(name="order-1", pid=1),
    Process(name="order-2", pid=2, is_stopped=True),
    Process(name="sync-1", pid=3, held_up="held up for 3.0 s by load (sync.py:7)"),
    Process(name="greeter", pid=4, held_up="held up for 1.0 s by greet (greeter.py:2)", is_ours=False),
]
REGISTRY = "http://consul:8500"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def failures(findings: Any) -> list[Finding]:
    return [found for found in findings if not found.passed]


@pytest.mark.parametrize(
    ("told", "passed", "text"),
    [
        (0, True, "within a second"),
        (-1.9, True, "within a second"),  # the registry tells whole seconds: it may be 1.1 s behind only
        (1, True, "within a second"),
        (-2.2, False, "at least 1 s ahead of"),
        (-7, False, "at least 6 s ahead of"),
        (5, False, "at least 5 s behind"),
        (None, True, "does not tell"),
    ],
)
def test_clocks_that_are_surely_more_than_a_second_apart(told: float | None, passed: bool, text: str) -> None:
    said = None if told is None else NOON + timedelta(seconds=told)
    found = clock(NOON, said, NOON + timedelta(milliseconds=2))
    assert (found.passed, text in found.text, bool(found.remedy)) == (passed, True, not passed)


def test_a_slow_answer_is_no_wrong_clock() -> None:
    assert clock(NOON, NOON + timedelta(seconds=4), NOON + timedelta(seconds=5)).passed


@pytest.mark.parametrize(
    ("code", "remedy"), [(Code.UNAVAILABLE, "mesh restart registry"), (Code.PERMISSION_DENIED, "CONSUL_HTTP_TOKEN=")]
)
def test_a_registry_that_does_not_answer_leaves_other_things_unknown(code: Code, remedy: str) -> None:
    found = list(silent(REGISTRY, Error(code, "no")))
    assert [one.group for one in found] == ["registry", "instances", "clock"]
    assert all(one.remedy.startswith(remedy) and not one.passed for one in found)


def instance(name: str, health: Health = Health.PASSING, output: str = "") -> Instance:
    return Instance(service="shop", id=name, address="10.0.0.1", port=80, health=health, output=output)


def test_an_instance_without_health_is_told_and_one_that_leaves_is_not() -> None:
    sick = instance("b", Health.CRITICAL, "not serving")
    found = list(instances({"shop": (instance("a"), sick, instance("c", Health.CRITICAL, "leaving"))}, REGISTRY))
    assert [one.text for one in found] == ["1 healthy instance of 1 service", "b is critical: not serving"]
    assert found[1].address == "10.0.0.1:80"
    assert found[1].remedy.startswith(f"curl -s {REGISTRY}/v1/health/service/shop")
    (alone,) = instances({"shop": (sick,)}, REGISTRY)
    assert alone.text.endswith("shop has no healthy one: its calls fail")


def test_nothing_on_the_mesh_is_nothing_wrong() -> None:
    (found,) = instances({}, REGISTRY)
    assert found.passed


def published(problems: dict[str, str] | None = None, unread: frozenset[str] = frozenset(), **rules: Any) -> Published:
    return Published(rules=Rules(**rules), problems=problems or {}, unread=unread, registry=REGISTRY)


def test_policies_in_force_are_counted() -> None:
    made = published(configs={"shop": config()}, entries=entries(router(route())))
    assert [(one.passed, one.text) for one in policies(made)] == [
        (True, "1 service config and 1 config entry in force")
    ]


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("mesh/service-config/shop", "/v1/kv/mesh/service-config/shop"),
        ("service-router/shop", "/v1/config/service-router/shop"),
    ],
)
def test_what_is_invalid_is_told_with_the_command_that_takes_it_back(place: str, path: str) -> None:
    (found,) = failures(policies(published({place: "Routes[0]: no"})))
    assert found.text == f"{place} is not in force, and what was last good there holds, if anything was: Routes[0]: no"
    assert found.remedy.startswith(f"curl -fsS -X DELETE {REGISTRY}{path}  #")


def test_what_contradicts_the_rest_is_told_though_nobody_calls_that_service() -> None:
    (found,) = failures(policies(published(entries=entries(router(route(ServiceSubset="v9"))))))
    assert found.text.startswith("service-router/shop is not in force")
    assert "shop has no subset v9" in found.text
    assert f"{REGISTRY}/v1/config/service-router/shop" in found.remedy


def test_a_contract_that_contradicts_itself_is_told() -> None:
    bad_contract = contract({"methodConfig": [{"name": [{"service": "shop.v1.Shop", "method": "Gone"}]}]})
    (found,) = failures(policies(published(contracts={"shop": bad_contract})))
    assert found.text.startswith("the service config beside the contract of shop is not in force")
    (found,) = failures(policies(published(contracts={"shop": contract({"methodConfig": [{}]})})))
    assert "methodConfig[0].name: names no method" in found.text
    assert found.remedy.startswith("mesh restart shop")


def test_each_place_is_told_once_with_all_of_its_faults() -> None:
    place = "mesh/service-config/shop"
    sells = config(methodConfig=[{"name": [{"service": "shop.v1.Shop", "method": m} for m in ("Sell", "Rent")]}])
    rules: Any = {"contracts": {"shop": contract()}, "configs": {"shop": sells}}
    (found,) = failures(policies(published(**rules)))
    assert found.text.endswith("has no method Sell; methodConfig[0].name[1]: shop.v1.Shop has no method Rent")
    (found,) = failures(policies(published({place: "a: no\nb: neither"}, **rules)))
    assert found.text.endswith("a: no; b: neither")
    lost = entries(router(route(ServiceSubset="v9")), router(route(Service="shop"), name="web"))
    assert len(failures(policies(published(entries=lost)))) == 1


@pytest.mark.parametrize(("there", "told"), [
    ({"prefix": "/shop.v1.Shop/Gte"}, "Routes[0].Match.HTTP: /shop.v1.Shop/Gte matches no method of shop"),
    ({"path": "/shop.v1.Shop/get"}, "Routes[0].Match.HTTP: /shop.v1.Shop/get matches no method of shop"),
    ({"path": "/shop.v1.Shop/Get"}, ""),
    ({"prefix": "/shop.v1."}, ""),
    ({"prefix": "/"}, ""),
    ({"path": "/grpc.health.v1.Health/Check"}, ""),
    ({"path": "/page.v1.Page/Read", "Service": "page"}, ""),
])  # fmt: skip
def test_a_route_that_takes_no_call_is_told(there: dict[str, Any], told: str) -> None:
    rules: Any = {"entries": entries(router(route(**there)))}
    found = failures(policies(published(contracts={"shop": contract()}, **rules)))
    assert [told in one.text for one in found] == ([True] if told else [])
    assert failures(policies(published(**rules))) == []


SHOP = {"service": "shop.v1.Shop"}
RETRY = {"maxAttempts": 2, "retryableStatusCodes": ["UNAVAILABLE"]}


@pytest.mark.parametrize(("name", "said", "told"), [
    ({}, {"timeout": "1s"}, []),
    ({**SHOP, "method": "Get"}, {"timeout": "1s"}, []),
    ({}, {"timeout": "1s", "retryPolicy": RETRY}, ["nothing says what may be sent again, and nothing is"]),
    ({**SHOP, "method": "Get"}, {"retryPolicy": RETRY}, ["nothing says what may be sent again, and nothing is"]),
    (SHOP, {"timeout": "1s"}, ["its methods have to be named, or all by {}"]),
])  # fmt: skip
def test_what_cannot_hold_without_a_contract_is_told(name: Any, said: Any, told: list[str]) -> None:
    rules: Any = {"configs": {"shop": config(methodConfig=[{"name": [name], **said}])}}
    found = failures(policies(published(**rules)))
    assert [one.text.partition(", so ")[2] for one in found] == told
    assert all(one.text.startswith("mesh/service-config/shop: methodConfig[0].name[0]: shop publishes no contract")
               for one in found)  # fmt: skip
    assert failures(policies(published(unread=frozenset({"mesh/contracts/"}), **rules)))[1:] == []


def test_retries_of_a_router_are_told_where_no_contract_says_what_may_be_sent_again() -> None:
    (found,) = failures(policies(published(entries=entries(router(route(NumRetries=2))))))
    assert found.text.startswith("service-router/shop: Routes[0].Destination: shop publishes no contract")


@pytest.mark.parametrize(("name", "is_told"), [("shop.v1.Shops", True), ("shop.v1.Cart", False)])
def test_a_name_beside_the_contract_that_is_nearly_a_right_one_is_told(name: str, is_told: bool) -> None:
    made = contract({"methodConfig": [{"name": [{"service": name}], "timeout": "1s"}]})
    found = failures(policies(published(contracts={"shop": made})))
    assert [one.text.endswith(f"nobody serves {name}: did you mean shop.v1.Shop?") for one in found] == [True] * is_told


def test_what_could_not_be_read_is_told() -> None:
    (found,) = failures(policies(published(unread=frozenset({"service-router"}))))
    assert "service-router" in found.text


def test_contracts_are_counted_and_a_broken_one_is_told() -> None:
    made = published({"mesh/contracts/shop": "not a published contract: empty"}, contracts={"shop": contract()})
    counted, broken = contracts(made)
    assert (counted.text, counted.passed) == ("1 contract with 1 gRPC service", True)
    assert broken.remedy == f"curl -fsS -X DELETE {REGISTRY}/v1/kv/mesh/contracts/shop"
    assert failures(policies(made)) == []


def test_what_the_gateway_refuses_is_about_descriptors() -> None:
    (found,) = edge_objections(["two: its shared.proto differs from that of service one"])
    assert (found.group, found.passed) == ("descriptors", False)


def refusing() -> Stream:
    """A stream whose client refused the one cluster that it was sent."""
    stream, node = Stream(), Node(id="order-1", user_agent_name="gRPC Go", user_agent_version="1.44.0")
    stream.receive(DiscoveryRequest(type_url=CLUSTER, resource_names=["shop"], node=node))
    sent = list(stream.responses(Snapshot({CLUSTER: {"shop": pack(Cluster(name="shop"))}})))
    refusal = Status(code=3, message="no such\n policy")
    stream.receive(DiscoveryRequest(
        type_url=CLUSTER, resource_names=["shop"], response_nonce=sent[0].nonce, error_detail=refusal,
    ))  # fmt: skip
    return stream


def test_a_refusal_is_told_with_who_and_why() -> None:
    counted, found = subscriptions([refusing()], "sidecar")
    assert (counted.passed, counted.text) == (True, "1 client of the sidecar, 1 subscription")
    assert found.text == "order-1 (gRPC Go 1.44.0) refused Cluster of shop: no such policy"
    assert not found.passed


def test_a_refusal_that_is_over_is_no_failure() -> None:
    stream = refusing()
    stream.subscriptions[CLUSTER].refused = False
    assert [one.passed for one in subscriptions([stream], "sidecar")] == [True, True]


def test_a_program_that_is_not_on_the_mesh_yet_is_told() -> None:
    found = list(programs([
        ("shop-1", "10.0.0.1:80", AttachResponse.STATE_SERVING, ""),
        ("shop-2", "10.0.0.1:81", AttachResponse.STATE_STARTING, "nobody listens"),
    ]))  # fmt: skip
    assert [(one.passed, one.text) for one in found] == [
        (True, "keeps 1 program on the mesh"), (False, "shop-2 is not on the mesh yet: nobody listens"),
    ]  # fmt: skip


def test_a_program_that_seems_to_have_a_wrong_name_is_told() -> None:
    found = list(programs([("order-1", "10.0.0.1:80", AttachResponse.STATE_SERVING, "is order the right name?")]))
    assert [(one.passed, one.text) for one in found] == [
        (True, "keeps 1 program on the mesh"), (False, "order-1: is order the right name?"),
    ]  # fmt: skip


def test_a_program_that_another_finding_is_about_is_not_told_twice() -> None:
    assert not failures(programs([("order-1", "10.0.0.1:80", AttachResponse.STATE_SERVING, f"no TLS: {TOLD}")]))


def test_names_that_nobody_has_are_warned_of_with_the_nearest() -> None:
    """Those that are registered, were described, are led on to others, or are part of the mesh are none of them."""
    rules = Rules(
        contracts={"shop": contract()},
        configs={"shpo": config(), "shop": config(), "web": config()},
        entries=entries(resolver(Redirect={"Service": "web"}, name="virtual"), resolver(name="nothing-near")),
    )
    pairs = (("wbe", "shop"), ("gateway", "shop"), ("*", "shop"), ("web", "shop"))
    held = [Intention(source=one, destination=other, id="7") for one, other in pairs]
    paths = ("/shop.v1.Shop/", "/shop.v1.Shpo/")
    permissions = tuple(Permission(allow=False, match=Match(prefix=path)) for path in paths)
    held.append(Intention(source="web", destination="shop", permissions=permissions))
    found = list(misnamed(rules, Intentions(held=tuple(held)), ["web"], REGISTRY))
    assert all(one.passed and one.remedy for one in found)
    nobody = "which nobody is or was registered as"
    assert [one.text for one in found] == [
        f"mesh/service-config/shpo is about shpo, {nobody}: did you mean shop?",
        f"service-resolver/nothing-near is about nothing-near, {nobody}",
        f"the intention wbe => shop is about wbe, {nobody}: did you mean web?",
        "/shop.v1.Shpo/ in the intention web => shop matches no method of shop, so it decides on no call",
    ]
    show = f"curl -s {REGISTRY}/v1/config/service-intentions/shop"
    assert found[-1].remedy == f"{show}  # shows it: correct the path in what it says of web"
    assert found[-2].remedy.startswith(f"curl -fsS -X DELETE {REGISTRY}/v1/connect/intentions/7  #")


def test_one_source_of_an_entry_is_taken_back_and_no_other_with_it() -> None:
    held = Intentions(held=(Intention(source="wbe", destination="shop"), Intention(source="web", destination="shop")))
    (found,) = misnamed(Rules(contracts={"shop": contract()}), held, ["web"], REGISTRY)
    url = f"{REGISTRY}/v1/connect/intentions/exact?source=wbe&destination=shop"
    assert found.remedy == f"curl -fsS -X DELETE '{url}'  # unless wbe is yet to come"


def test_an_intention_that_cannot_be_kept_hides_nothing_else() -> None:
    """A regular expression that RE2 refuses, as one in an entry by itself is told elsewhere."""
    raw = {
        "SourceName": "web", "DestinationName": "shop",
        "Permissions": [{"Action": "allow", "HTTP": {"PathRegex": ".*Get(?=x).*"}}],
    }  # fmt: skip
    held = read(Intended(intentions=(raw,), default_allow=True))
    rules = Rules(contracts={"shop": contract()}, configs={"shpo": config()})
    (found,) = misnamed(rules, held, ["web"], REGISTRY)
    assert "shpo" in found.text
    told = failures(intentions(held, "", REGISTRY, secured=True))
    assert ["not a regular expression of RE2" in one.text for one in told] == [True]


def test_a_part_that_fails_is_told_and_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def failing() -> Iterator[Finding]:
        yield good("registry", "before")
        raise LookupError("odd")

    found = list(each(failing(), [good("clock", "after")]))
    assert [(one.passed, one.text) for one in found] == [
        (True, "before"),
        (False, "failing cannot be told, as what it met is not understood (LookupError: odd)"),
        (True, "after"),
    ]
    assert "Traceback" in caplog.text


ODD = "a; touch x `id`'$(id)"
ODD_WORD, ODD_PATH = shlex.quote(ODD), "a%3B%20touch%20x%20%60id%60%27%24%28id%29"


def test_a_name_is_one_word_of_a_command_whatever_is_in_it() -> None:
    """Those who choose names in the registry run nothing where somebody pastes what is to mend them."""
    odd = Instance(service=ODD, id="odd-1", address="10.0.0.1", port=80, health=Health.CRITICAL)
    known = Intentions(held=(Intention(source="web", destination=ODD),))
    lost = Rules(entries=entries(splitter((100, "nothere", ""), name=ODD)))
    place = f"mesh/service-config/{ODD}"
    said = {place: place}
    told = [
        *misnamed(Rules(configs={ODD: config()}), known, ["web"], REGISTRY),
        *failures(policies(published({place: "no"}))), *failures(instances({ODD: (odd,)}, REGISTRY)),
        *failures(deserted(lost, {ODD: ()})), *unproven({ODD: []}, lambda service: said[place], REGISTRY),
        *failures(unproven({ODD: [replace(odd, health=Health.PASSING)]}, lambda service: "", REGISTRY)),
        *failures(policies(published(contracts={ODD: contract({"methodConfig": [{}]})}))),
        *failures(processes([Process(name=ODD, pid=1, held_up="held up")])),
    ]
    kv = f"{REGISTRY}/v1/kv/mesh/service-config/{ODD_PATH}"
    assert [one.remedy.partition("  #")[0] for one in told] == [
        f"curl -fsS -X DELETE {kv}",
        f"curl -fsS -X DELETE '{REGISTRY}/v1/connect/intentions/exact?source=web&destination={ODD_PATH}'",
        f"curl -fsS -X DELETE {kv}",
        f"curl -s {REGISTRY}/v1/health/service/{ODD_PATH}",
        f"mesh explain {ODD_WORD}",
        f"curl -fsS -X DELETE {kv}",
        f"""curl -fsS -X PUT {kv} -d '{{"mutualTlsMode": "permissive"}}'""",
        f"mesh restart {ODD_WORD}",
        f"mesh stack {ODD_WORD}",
    ]
    assert told[0].remedy.endswith(f"  # unless {ODD_WORD} is yet to come")


def test_a_name_makes_no_second_line_and_writes_nothing_into_a_terminal() -> None:
    odd = "a\nid #\x1b[2J\ud800"
    (found,) = misnamed(Rules(configs={odd: config()}), None, [], REGISTRY)
    assert (found.text + found.remedy).isprintable()


ODD_LINE = 'mesh_attention{ , =m }t1n{ma#E"h'
"""What prometheus_client's parser raises IndexError for."""


def test_only_the_gauge_of_that_name_asks_somebody_and_an_odd_line_hides_no_other() -> None:
    asked = 'mesh_attention{what="broken things",remedy="mend all"} 3'
    page = f'mesh_attentions_total{{what="no",remedy="none"}} 7\n{ODD_LINE}\n{asked}'
    (found,) = asked_of(["mesh_attention{what= 3", page])
    assert (found.text, found.remedy) == ("broken things: 3", "mend all")


FOUND = (
    bad("instances", "b is critical", "curl -s", "10.0.0.1:80"), good("registry", "answers"),
    good("policies", "fine"), good("policies", "fine"),
)  # fmt: skip


def test_people_read_groups_in_one_order_each_finding_once_and_the_name_of_the_process() -> None:
    assert show.as_text(show.merged(FOUND, {"10.0.0.1:80": "shop-1"})).splitlines() == [
        "registry", "  ✓ answers", "policies", "  ✓ fine", "instances", "  ✗ b is critical",
        "      mesh restart shop-1  # `mesh logs shop-1` says why",
    ]  # fmt: skip
    assert "\x1b[31m✗\x1b[0m b is critical" in show.as_text(FOUND, colour=True)


@pytest.mark.parametrize(("finding", "command"), [
    (plaintext_mesh(), "mesh down --dir '/a b' && mesh up  # as it was started"),
    (bad("gateway", "none", "mesh restart gateway"), "mesh restart --dir '/a b' gateway"),
    (bad("gateway", "none", "mesh logs 'a mesh up'"), "mesh logs --dir '/a b' 'a mesh up'"),
    (bad("registry", "none", "curl -s localhost/mesh/up"), "curl -s localhost/mesh/up"),
])  # fmt: skip
def test_commands_name_the_folder_where_they_do_not_find_it(finding: Finding, command: str) -> None:
    (found,) = show.at([finding], "/a b", "up".__eq__)
    assert found.remedy.startswith(command)
    assert next(show.at([finding], "/a b", bool)) == finding


def test_programs_read_whether_all_passed() -> None:
    told = json.loads(show.as_json(FOUND[:2]))
    assert told["passed"] is False
    assert told["findings"][0] == {
        "group": "instances", "passed": False, "text": "b is critical", "remedy": "curl -s",
    }  # fmt: skip
    assert json.loads(show.as_json(FOUND[1:]))["passed"] is True


NOBODY = {"nobody": "Service.ID == nobody"}


@pytest.mark.parametrize(("raw", "deserted_targets"), [
    ((), []),
    ((resolver(subsets=NOBODY, DefaultSubset="nobody"),), ["shop:nobody"]),
    ((resolver(subsets=NOBODY),), []),
    ((splitter((50, "shop", ""), (50, "nothere", "")),), ["nothere"]),
    ((splitter((100, "shop", ""), (0, "nothere", "")),), []),
    ((resolver(subsets=NOBODY, DefaultSubset="nobody", Failover={"*": {"Service": "other"}}),), []),
])  # fmt: skip
def test_targets_that_nobody_serves_are_told(raw: tuple[dict[str, Any], ...], deserted_targets: list[str]) -> None:
    found = {name: (Instance(service=name, id=f"{name}-1", address="127.0.0.1", port=1),) for name in ("shop", "other")}
    told = list(deserted(Rules(entries=entries(*raw)), found))
    assert [finding.text.split(" sent to ")[1].partition(",")[0] for finding in told] == deserted_targets
    assert {finding.passed for finding in told} <= {False}


def test_a_failover_that_cannot_take_calls_is_told() -> None:
    def one(service: str, tls: str) -> Instance:
        return Instance(service=service, id=f"{service}-1", address="127.0.0.1", port=1, meta={"tls": tls})

    permitted = {name: config(mutualTlsMode="permissive") for name in ("shop", "other")}
    rules = Rules(entries=entries(resolver(Failover={"*": {"Service": "other"}})), configs=permitted)
    found = {"shop": (one("shop", ""),), "other": (one("other", "mutual"),)}
    (told,) = unmatched(rules, found)
    assert not told.passed
    assert "failover of shop leaves out other-1" in told.text
    assert list(unmatched(rules, {**found, "shop": (one("shop", "mutual"),)})) == []


def test_each_process_that_does_not_go_on_is_told_with_what_helps() -> None:
    assert [(one.passed, one.text, one.remedy) for one in processes(HANGS)] == [
        (True, "1 process, neither stopped nor held up", ""),
        (False, "order-2 (pid 2) is stopped by a signal", "kill -CONT 2"),
        (False, "sync-1 (pid 3) is held up for 3.0 s by load (sync.py:7)", "mesh stack sync-1  # what it is doing"),
        (False, "greeter (pid 4) is held up for 1.0 s by greet (greeter.py:2)", "mesh stack 4  # what it is doing"),
    ]
    assert list(processes([])) == []


def test_a_mesh_or_a_service_without_tls_is_told_loudly_and_is_no_failure() -> None:
    plain = {"legacy": [Instance(service="legacy", id="legacy-1", address="127.0.0.1", port=1)], "order": []}
    said = {"legacy": "mesh/service-config/legacy", "order": ""}
    (chosen,) = unproven(plain, said.__getitem__, REGISTRY)
    assert chosen.passed
    for found in (chosen, plaintext_mesh()):
        assert f"  ! {found.text}\n      {found.remedy}" in show.as_text([found])
    (uncalled,) = failures(unproven(plain, lambda service: "", REGISTRY))
    assert "nobody calls legacy-1" in uncalled.text
    assert "-X PUT http://consul:8500/v1/kv/mesh/service-config/legacy -d" in uncalled.remedy


@pytest.mark.parametrize(("meta", "words"), [({TLS_META: MUTUAL_TLS}, "all of it serves TLS"), (None, "no healthy")])
def test_a_permissive_service_that_needs_it_no_more_is_told_so(meta: dict[str, str] | None, words: str) -> None:
    held = [] if meta is None else [Instance(service="shop", id="a", address="10.0.0.1", port=1, meta=meta)]
    (found,) = unproven({"shop": held}, lambda _: "mesh/service-config/shop", REGISTRY)
    assert words in found.text
    assert "0 instances" not in found.text
