"""Faults on purpose: what is read and refused, which calls meet them, and what the command is told and tells."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from google.protobuf.json_format import MessageToDict

from mesh import fault_words
from mesh.errors import Code, InvalidConfig
from mesh.faults import Wish
from mesh.policy import Fault, Policy, fault_on, parse_fault
from mesh.xds.dialect import CORE, NODE, Dialect
from mesh.xds.routes import FAULT_FILTER, xds_routes
from tests.unit.policy.tables import BUY, GET, WATCH, policy, route, router

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=60)


def read(name: str = "shop", **fields: Any) -> Fault:
    return parse_fault(name, json.dumps({"until": "2030-01-31T12:01:00Z", **fields}).encode(), NOW)


@pytest.mark.parametrize("fault", [
    Fault(service="shop", abort=Code.UNAVAILABLE, until=LATER),
    Fault(service="shop", path=GET, abort=Code.INTERNAL, delay_seconds=0.0015, percent=0.5, until=LATER),
    Fault(service="shop", path=GET, delay_seconds=90, percent=30, until=LATER + timedelta(microseconds=1)),
    Fault(service="shop", by_header=True, until=LATER),
], ids=lambda f: f.text)  # fmt: skip
def test_what_is_written_is_read(fault: Fault) -> None:
    assert parse_fault(fault.key.removeprefix("mesh/fault/"), fault.serialize(), NOW) == fault


def test_a_time_may_have_any_zone() -> None:
    assert read(until="2030-01-31T13:01:00+01:00", abort="ABORTED").until == LATER


@pytest.mark.parametrize(("name", "value", "problem"), [
    ("shop", "{", "not JSON"),
    ("shop", "", "empty, not JSON"),
    ("shop", "[]", "[] is not an object"),
    ("", '{"abort": "ABORTED"}', "the key names neither a service nor"),
    ("shop/Get", '{"abort": "ABORTED"}', "the key names neither a service nor"),
    ("shop/a/b/c", '{"abort": "ABORTED"}', "the key names neither a service nor"),
    ("shop", '{"abort": "OK"}', "abort: 'OK' is not one of CANCELLED, UNKNOWN,"),
    ("shop", '{"abort": 14}', "abort: 14 is not a string"),
    ("shop", '{"delay": "soon"}', "delay: 'soon' is not a duration such as"),
    ("shop", '{"delay": "3601s"}', "delay: 3601 s is more than 3600 s"),
    ("shop", '{"abort": "ABORTED", "percent": 0}', "percent: 0 is not a number from 0.0001 to 100"),
    ("shop", '{"abort": "ABORTED", "percent": 101}', "percent: 101 is not a number from 0.0001 to 100"),
    ("shop", '{"abort": "ABORTED", "for": "60s"}', "for: unknown field"),
    ("shop", '{"abort": "ABORTED", "until": "noon"}', "until: 'noon' is not a time"),
    ("shop", '{"abort": "ABORTED", "until": "2030-01-31T12:01:00"}', "until: '2030-01-31T12:01:00' is not a time"),
    ("shop", '{"abort": "ABORTED", "until": "2030-01-31T14:00:00Z"}', "until: 2030-01-31T14:00:00Z is more than"),
    ("shop", '{"byHeader": true, "abort": "ABORTED"}', "byHeader: the headers say what happens"),
    ("shop", '{"percent": 5}', "one of abort, delay and byHeader is missing"),
])  # fmt: skip
def test_what_is_wrong_is_refused_with_its_path(name: str, value: str, problem: str) -> None:
    if value.startswith("{") and value != "{" and "until" not in value:
        value = value.replace("{", '{"until": "2030-01-31T12:01:00Z", ', 1)
    with pytest.raises(InvalidConfig) as refused:
        parse_fault(name, value.encode(), NOW)
    assert problem in refused.value.message


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(InvalidConfig) as refused:
        parse_fault("shop", b'{"abort": "OK", "delay": "x", "percent": 0}', NOW)
    assert len(refused.value.message.splitlines()) == 4


WHOLE = Fault(service="shop", abort=Code.ABORTED, until=LATER)
ON_GET = Fault(service="shop", path=GET, delay_seconds=0.2, percent=30, until=LATER)


def shown(made: Policy, dialect: Dialect, *faults: Fault) -> dict[str, Any]:
    """What is injected, by path or prefix."""
    found = {}
    for one in xds_routes(made, dialect, lambda _: (), faults):
        config = _injected(one)
        found[one.match.path or one.match.prefix] = config and MessageToDict(config)
    return found


def _injected(made: Route) -> HTTPFault | None:
    config = made.typed_per_filter_config.get(FAULT_FILTER)
    return HTTPFault.FromString(config.value) if config else None


ABORTED = {"abort": {"grpcStatus": 10, "percentage": {"numerator": 100}}}
DELAYED = {"delay": {"fixedDelay": "0.200s", "percentage": {"numerator": 30}}}


def test_a_fault_is_on_exactly_the_routes_of_its_method() -> None:
    assert shown(policy(), CORE) == {GET: None, BUY: None, WATCH: None, "/": None}
    assert shown(policy(), CORE, ON_GET) == {GET: DELAYED, BUY: None, WATCH: None, "/": None}
    assert shown(policy(), CORE, WHOLE) == dict.fromkeys((GET, BUY, WATCH, "/"), ABORTED)
    assert shown(policy(), CORE, WHOLE, ON_GET) == {GET: DELAYED, BUY: ABORTED, WATCH: ABORTED, "/": ABORTED}


def test_a_fault_is_on_each_route_that_an_operator_leads_a_method_by() -> None:
    made = policy(router(route(path=GET, headers=[("x-canary", "1")], Service="spare")))
    paths = [one.match.path for one in made.routes if fault_on(one.match, [ON_GET])]
    assert paths == [GET, GET]


def test_parts_of_a_percent_and_headers() -> None:
    small = Fault(service="shop", path=GET, abort=Code.INTERNAL, percent=0.25, until=LATER)
    assert shown(policy(), CORE, small)[GET] == {
        "abort": {"grpcStatus": 13, "percentage": {"numerator": 2500, "denominator": "MILLION"}}
    }
    by_header = Fault(service="shop", path=GET, by_header=True, until=LATER)
    share = {"percentage": {"numerator": 100}}  # of a hundred, as that is what the headers count in
    assert shown(policy(), CORE, by_header)[GET] == {
        "abort": {"headerAbort": {}, **share}, "delay": {"headerDelay": {}, **share}
    }  # fmt: skip


def test_node_finds_each_configuration_other_than_the_one_before() -> None:
    """It takes bytes that begin with those of the older configuration for the same."""
    both = Fault(service="shop", path=GET, abort=Code.INTERNAL, delay_seconds=0.2, percent=30, until=LATER)
    faults = ((), (ON_GET,), (both,), (WHOLE,))
    made = [xds_routes(policy(), NODE, lambda _: (), held)[0] for held in faults]
    values = [one.typed_per_filter_config[FAULT_FILTER].value for one in made]
    assert not any(a.startswith(b) for a in values for b in values if a is not b)


NOTHING = {"abort": None, "delay": None, "percent": None, "by_header": False, "seconds": None}


def wish(target: str = "shop/Get", **options: Any) -> Wish:
    return fault_words.wish(target, {**NOTHING, **options})


def test_what_the_command_is_told() -> None:
    told = wish(abort="unavailable", delay="1m30s", percent="0.5", seconds="1h")
    assert told == Wish(
        service="shop", method="Get", abort=Code.UNAVAILABLE, delay_seconds=90, percent=0.5, seconds=3600
    )
    assert wish("shop", by_header=True) == Wish(service="shop", by_header=True, seconds=60)


def test_an_option_with_an_empty_text_is_a_wish_too() -> None:
    assert not fault_words.is_wish(NOTHING)
    assert all(fault_words.is_wish({**NOTHING, name: ""}) for name in NOTHING)


@pytest.mark.parametrize(("options", "problem"), [
    ({"abort": "OK"}, "--abort OK is not one of CANCELLED, UNKNOWN, INVALID_ARGUMENT,"),
    ({"abort": ""}, '--abort "" is not one of CANCELLED,'),
    ({"delay": ""}, '--delay "" is not a time from 1ms to 1h'),
    ({"abort": "ABORTED", "percent": ""}, '--percent "" is not a number'),
    ({"abort": "ABORTED", "seconds": ""}, '--for "" is not a time from 1ms to 1h'),
    ({"abort": "503"}, "--abort 503 is not one of CANCELLED,"),
    ({"abort": "ABORTED", "percent": "0"}, "--percent 0 is not a number above 0 and up to 100"),
    ({"abort": "ABORTED", "percent": "101"}, "--percent 101 is not a number above 0 and up to 100"),
    ({"abort": "ABORTED", "percent": "many"}, "--percent many is not a number"),
    ({"abort": "ABORTED", "percent": "nan"}, "--percent nan is not a number"),
    ({"delay": "100us"}, "--delay 100us is not a time from 1ms to 1h"),
    ({"delay": "-1"}, "--delay -1 is not a time from 1ms to 1h"),
    ({"delay": "5"}, "--delay 5 is not a time from 1ms to 1h"),
    ({"abort": "ABORTED", "seconds": "0"}, "--for 0 is not a time from 1ms to 1h"),
    ({"abort": "ABORTED", "seconds": "61m"}, "--for 61m is not a time from 1ms to 1h"),
    ({"percent": "30"}, "say what is to happen: --abort CODE, --delay TIME or --by-header; or --clear"),
    ({"by_header": True, "percent": "30"}, "--by-header leaves it to the headers of each call"),
    ({"target": "", "abort": "ABORTED"}, "name what is to go wrong, as in: mesh fault order/GetOrder"),
    ({"target": "/Get", "abort": "ABORTED"}, "name what is to go wrong, as in: mesh fault order/GetOrder"),
    ({"target": "shop/", "abort": "ABORTED"}, "name what is to go wrong, as in: mesh fault order/GetOrder"),
])  # fmt: skip
def test_what_cannot_be_gets_one_clear_line(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        wish(**options)
    assert refused.value.message.startswith(problem)
    assert len(refused.value.message.splitlines()) == 1


def test_what_is_in_force_is_shown() -> None:
    assert fault_words.table([], NOW) == "No fault is in force."
    assert fault_words.table([WHOLE, ON_GET], NOW).splitlines() == [
        "SERVICE  METHOD            FAULT                   UNTIL         LEFT",
        "shop     *                 aborted with ABORTED    12:01:00 UTC  60 s",
        "shop     shop.v1.Shop/Get  30 % delayed by 200 ms  12:01:00 UTC  60 s",
    ]
    assert json.loads(fault_words.as_json([ON_GET])) == [{
        "service": "shop", "method": "shop.v1.Shop/Get", "abort": "", "delay_seconds": 0.2, "percent": 30,
        "by_header": False, "until": "2030-01-31T12:01:00+00:00",
    }]  # fmt: skip


@pytest.mark.parametrize(("fault", "told"), [(WHOLE, True), (ON_GET, False)])
def test_whoever_aborts_calls_is_told_that_they_are_not_sent_again(fault: Fault, told: bool) -> None:
    text = fault_words.announced(fault, NOW)
    assert (fault_words.NOT_AGAIN in text) is told
    assert "until 12:01:00 UTC (in 60 s)" in text
    assert f"mesh fault shop{fault.path} --clear" in text
