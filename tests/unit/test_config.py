"""Settings are parsed once, with all problems at once."""

import pytest

from mesh.config import Settings, Variables
from mesh.errors import InvalidConfig


def test_defaults() -> None:
    assert Settings.from_env({}) == Settings()


def test_empty_values_count_as_absent() -> None:
    assert Settings.from_env({"PORT": "", "OTEL_TRACES_SAMPLER": " "}) == Settings()


def test_values() -> None:
    settings = Settings.from_env({"MESH_HOST": "::1", "PORT": "50051", "MESH_GRACE_SECONDS": "2.5"})
    assert (settings.host, settings.port, settings.grace_seconds) == ("::1", 50051, 2.5)


def test_all_problems_are_reported_together() -> None:
    bad = {"PORT": "99999", "MESH_GRACE_SECONDS": "soon", "OTEL_TRACES_SAMPLER": "often", "OTEL_SDK_DISABLED": "maybe",
           "OTEL_RESOURCE_ATTRIBUTES": "a=b,c"}
    with pytest.raises(InvalidConfig) as caught:
        Settings.from_env(bad)
    assert [line.split("=")[0].split(" ")[0] for line in caught.value.message.splitlines()] == [
        "PORT", "MESH_GRACE_SECONDS", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SDK_DISABLED", "OTEL_TRACES_SAMPLER",
    ]


def test_streams_leave_places_for_other_calls_however_few_there_are() -> None:
    limits = [Settings.from_env({"MESH_MAX_CONCURRENT_CALLS": calls}).most_streams for calls in ("1000", "100", "1")]
    assert limits == [900, 90, 1]
    both = {"MESH_MAX_CONCURRENT_CALLS": "100", "MESH_MAX_STREAMS": "100"}
    assert Settings.from_env(both).most_streams == 100


def test_more_streams_than_calls_are_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"MESH_MAX_STREAMS=101 is more than .*MESH_MAX_CONCURRENT_CALLS=100$"):
        Settings.from_env({"MESH_MAX_CONCURRENT_CALLS": "100", "MESH_MAX_STREAMS": "101"})
    with pytest.raises(InvalidConfig, match="MESH_MAX_STREAMS=101"):
        Settings(max_concurrent_calls=100, max_streams=101)


def test_secrets_are_not_in_reprs() -> None:
    settings = Settings.from_env({"OTEL_EXPORTER_OTLP_HEADERS": "authorization=s3cret"})
    assert settings.telemetry.headers == {"authorization": "s3cret"}
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("values", "endpoint"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4317"}, "http://h:4317"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318/", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
         "http://h:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
         "http://t/x"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4317", "OTEL_SDK_DISABLED": "True"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4317", "OTEL_TRACES_EXPORTER": "none"}, ""),
    ],
)
def test_where_spans_go(values: dict[str, str], endpoint: str) -> None:
    assert Settings.from_env(values).telemetry.endpoint == endpoint


@pytest.mark.parametrize(
    ("endpoint", "protocol"),
    [("nonsense", "grpc"), ("http://", "grpc"), ("ftp://h:1", "grpc"), ("h:4318", "http/protobuf")],
)
def test_an_endpoint_that_is_none_is_refused(endpoint: str, protocol: str) -> None:
    with pytest.raises(InvalidConfig, match=r"OTEL_EXPORTER_OTLP_ENDPOINT is not http\(s\)://HOST:PORT$"):
        Settings.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})


def test_who_the_spans_are_from() -> None:
    telemetry = Settings.from_env({
        "OTEL_SERVICE_NAME": "order", "OTEL_RESOURCE_ATTRIBUTES": "service.name=x, service.instance.id=a%2Cb",
    }).telemetry
    assert (telemetry.service_name, telemetry.resource) == ("order", {"service.instance.id": "a,b"})


def test_a_program_with_variables_of_its_own_reports_them_too() -> None:
    variables = Variables({"PORT": "x", "WORKERS": "0"})
    Settings.read(variables)
    variables.integer("WORKERS", 8, minimum=1)
    with pytest.raises(InvalidConfig, match=r"(?s)PORT.*WORKERS=0 is outside 1"):
        variables.check()
