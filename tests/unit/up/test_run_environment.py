"""What a program on the mesh finds in its environment, and what the sidecar is told about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.attach import workload
from mesh.bootstrap import bootstrap
from mesh.run import REST_SECONDS, Membership, environment, patience, version


def test_a_program_is_told_its_port_its_name_and_its_bootstrap() -> None:
    environ = environment({"PATH": "/bin"}, Membership(service="order"), "order-1", 5000, Path("/run/b.json"), 5001)
    assert environ == {
        "PATH": "/bin",
        "PORT": "5000",
        "METRICS_PORT": "5001",
        "MESH_HOST": "127.0.0.1",
        "GRPC_XDS_BOOTSTRAP": "/run/b.json",
        "MESH_STACKS": "/run",
        "OTEL_SERVICE_NAME": "order",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=order-1",
        "PYTHONUNBUFFERED": "1",
    }


def test_what_the_user_set_for_telemetry_stays() -> None:
    base = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://far:4317", "OTEL_RESOURCE_ATTRIBUTES": "a=b"}
    environ = environment(base, Membership(service="order"), "order-1", 5000, Path("/b"))
    assert environ["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://far:4317"
    assert environ["OTEL_RESOURCE_ATTRIBUTES"] == "a=b,service.instance.id=order-1"


def test_ids_differ_and_begin_with_the_service() -> None:
    membership = Membership(service="order")
    first, second = membership.instance_id(), membership.instance_id()
    assert first != second
    assert first.startswith("order-")


def test_prefixes_travel_as_metadata() -> None:
    membership = Membership(service="web", protocol="http", http_prefixes=("/a/", "/b/"), meta={"k": "v"})
    message = workload(membership, "web-1", 5000)
    assert dict(message.meta) == {"k": "v", "http-prefixes": "/a/ /b/"}
    assert (message.protocol, message.port, message.address) == ("http", 5000, "127.0.0.1")


def test_the_bootstrap_names_the_socket_and_always_a_locality() -> None:
    document = json.loads(bootstrap(Path("/run/s.sock"), node_id="order-1"))
    assert document["xds_servers"][0]["server_uri"] == "unix:/run/s.sock"
    assert document["node"]["locality"] == {"zone": ""}


def test_the_version_is_what_telemetry_is_told() -> None:
    assert version({"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.version=1.2%2B3"}) == {"version": "1.2+3"}
    assert version({"OTEL_RESOURCE_ATTRIBUTES": "a=b"}) == {}
    assert version({}) == {}


@pytest.mark.parametrize(
    ("grace", "seconds"), [("", 10), ("30", 30), ("0.5", 0.5), ("soon", 10), ("-1", 10), ("nan", 10)]
)
def test_a_program_gets_its_own_grace_and_more_before_it_is_killed(grace: str, seconds: float) -> None:
    assert patience({"MESH_GRACE_SECONDS": grace}) == seconds + REST_SECONDS
    assert patience({}) == 10 + REST_SECONDS
