"""Settings of the console: defaults, environment, all problems at once."""

from __future__ import annotations

import re

import pytest

from console.settings import Settings
from mesh.errors import InvalidConfig


def test_defaults() -> None:
    settings = Settings.from_mapping({})
    assert settings == Settings()
    assert (settings.limits.max_spans, settings.limits.max_bytes) == (200_000, 256 * 1024 * 1024)


def test_beyond_loopback_there_is_a_token() -> None:
    assert Settings.from_mapping({}, host="::1").token == ""
    assert len(Settings.from_mapping({}, host="0.0.0.0").token) > 20
    given = Settings.from_mapping({"MESH_CONSOLE_TOKEN": " own ", "MESH_CONSOLE_HOSTS": "A.example b"}, host="10.0.0.1")
    assert (given.token, given.names) == ("own", ("a.example", "b"))
    assert "own" not in repr(given)
    with pytest.raises(InvalidConfig, match="--host must be an IP address"):
        Settings.from_mapping({}, host="localhost")


def test_environment_and_flags() -> None:
    environ = {"PORT": "9000", "MESH_CONSOLE_MAX_SPANS": "10", "MESH_CONSOLE_MAX_BYTES": "2000000"}
    settings = Settings.from_mapping(environ, otlp_grpc_port=1, otlp_http_port=2)
    assert (settings.query_port, settings.otlp_grpc_port, settings.otlp_http_port) == (9000, 1, 2)
    assert (settings.limits.max_spans, settings.limits.max_bytes) == (10, 2_000_000)
    assert Settings.from_mapping(environ, query_port=0).query_port == 0


def test_all_problems_are_reported_together() -> None:
    environ = {"PORT": "http", "MESH_CONSOLE_MAX_SPANS": "0", "MESH_CONSOLE_MAX_BYTES": "1e9"}
    with pytest.raises(InvalidConfig) as caught:
        Settings.from_mapping(environ, otlp_grpc_port=70_000)
    lines = caught.value.message.splitlines()
    assert [re.split("[= ]", line)[0] for line in lines] == [
        "--otlp-grpc-port", "PORT", "MESH_CONSOLE_MAX_SPANS", "MESH_CONSOLE_MAX_BYTES",
    ]  # fmt: skip
