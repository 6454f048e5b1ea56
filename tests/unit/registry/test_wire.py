"""Consul's JSON becomes this mesh's model; errors of its client become errors that say what to do."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from consul.exceptions import ACLPermissionDenied, BadRequest, ClientError, ConsulException, NotFound

from mesh.errors import Code
from mesh.registry import Health, Instance, wire
from mesh.registry.failure import is_forgotten, refused_write, to_error


def check(status: str, output: str = "") -> dict[str, str]:
    return {"Status": status, "Output": output}


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([], (Health.PASSING, "")),
        ([check("passing", "all well")], (Health.PASSING, "")),
        ([check("passing", "x"), check("warning", "slow")], (Health.WARNING, "slow")),
        ([check("warning", "slow"), check("critical", "leaving")], (Health.CRITICAL, "leaving")),
        ([check("critical", "leaving"), check("warning", "slow")], (Health.CRITICAL, "leaving")),
        ([check("critical"), check("critical", "second")], (Health.CRITICAL, "second")),
        ([check("maintenance", "by hand")], (Health.CRITICAL, "by hand")),
    ],
)
def test_health_is_the_worst_check(checks: list[dict[str, str]], expected: tuple[Health, str]) -> None:
    assert wire.health_of(checks) == expected


@pytest.mark.parametrize("action", ["allow", "deny"])
def test_the_default_behind_an_intention_about_all_services_is_to_deny(action: str) -> None:
    """As nobody can ask for it then: what Consul says of two services that nobody has is that intention."""
    said = [{"SourceName": source, "DestinationName": "*", "Action": action} for source in ("web", "*")]
    assert wire.intended(said[:1], default_allow=True).default_allow
    assert not wire.intended(said, default_allow=True).default_allow
    assert not wire.intended([], default_allow=False).default_allow


def test_instance_without_an_address_is_at_its_node() -> None:
    entry: dict[str, Any] = {
        "Node": {"Node": "n1", "Address": "10.0.0.1"},
        "Service": {"ID": "a", "Service": "order", "Address": "", "Port": 7000, "Tags": None, "Meta": None},
        "Checks": None,
    }
    expected = Instance(service="order", id="a", address="10.0.0.1", port=7000, node="n1")
    assert wire.instances([entry]) == (expected,)


def test_consul_itself_is_no_service_of_the_mesh() -> None:
    assert wire.services({"consul": [], "order": ["b", "a"], "a": []}) == {"a": (), "order": ("a", "b")}


@pytest.mark.parametrize("nothing", [None, []])
def test_nothing_there_is_empty(nothing: list[Any] | None) -> None:
    assert (wire.instances(nothing), wire.config_entries(nothing), wire.values(nothing)) == ((), (), {})


@pytest.mark.parametrize(("seconds", "text"), [(1, "1000ms"), (0.25, "250ms"), (600, "600000ms")])
def test_duration(seconds: float, text: str) -> None:
    assert wire.duration(seconds) == text


ERRORS: list[tuple[Exception, Code, str]] = [
    (ACLPermissionDenied("Permission denied"), Code.PERMISSION_DENIED, "CONSUL_HTTP_TOKEN"),
    (ConsulException("500 No cluster leader"), Code.UNAVAILABLE, "No cluster leader"),
    (ConsulException("500 something odd"), Code.INTERNAL, "something odd"),
    (ConsulException("500 No path to datacenter"), Code.INVALID_ARGUMENT, "datacenter"),
    (ConsulException("501 not supported"), Code.UNIMPLEMENTED, "not supported"),
    (ConsulException("503 overloaded"), Code.UNAVAILABLE, "overloaded"),
    (ConsulException("Failed to decode JSON: <html>"), Code.INTERNAL, "not what Consul says"),
    (BadRequest("400 Missing service name"), Code.INVALID_ARGUMENT, "Missing service name"),
    (ClientError("413 too large"), Code.INVALID_ARGUMENT, "too large"),
    (ClientError("429 too many"), Code.RESOURCE_EXHAUSTED, "too many"),
    (NotFound("none"), Code.NOT_FOUND, "none"),
    (aiohttp.ServerDisconnectedError(), Code.UNAVAILABLE, "CONSUL_HTTP_ADDR"),
    (ConnectionRefusedError("refused"), Code.UNAVAILABLE, "mesh up"),
    (TimeoutError(), Code.UNAVAILABLE, "no answer in time"),
]


@pytest.mark.parametrize(("error", "code", "words"), ERRORS, ids=lambda part: str(part)[:40])
def test_errors_name_the_registry_and_what_to_do(error: Exception, code: Code, words: str) -> None:
    found = to_error(error, "http://here:8500")
    assert found.code is code
    assert words in found.message
    assert "http://here:8500" in found.message


@pytest.mark.parametrize(
    ("error", "forgotten"),
    [
        (ConsulException('500 CheckID "x" does not have associated TTL'), True),
        (ConsulException('500 Unknown check "x"'), True),
        (NotFound('Unknown check ID "x"'), True),
        (ConsulException("500 No cluster leader"), False),
    ],
)
def test_forgotten_instances_are_recognised_in_the_words_of_old_and_new_consuls(
    error: Exception, forgotten: bool
) -> None:
    assert is_forgotten(to_error(error, "x")) is forgotten


def test_consul_blames_itself_for_contradictory_config_entries() -> None:
    refused = refused_write(to_error(ConsulException('500 service "web" does not have a subset named "v2"'), "x"))
    away = refused_write(to_error(ConsulException("500 No cluster leader"), "x"))
    assert (refused.code, away.code) == (Code.INVALID_ARGUMENT, Code.UNAVAILABLE)
