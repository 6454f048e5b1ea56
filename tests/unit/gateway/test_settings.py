"""Where the edge sends its spans, from the same variables as every other process."""

from __future__ import annotations

import pytest

from gateway.settings import Collector
from mesh.config import Telemetry
from mesh.errors import InvalidConfig


@pytest.mark.parametrize(
    ("telemetry", "collector"),
    [
        (Telemetry(), None),
        (Telemetry(endpoint="http://127.0.0.1:4317"), Collector(host="127.0.0.1", port=4317)),
        (Telemetry(endpoint="collector:1234"), Collector(host="collector", port=1234)),
        (Telemetry(endpoint="https://[::1]"), Collector(host="::1", port=4317, ca_file="ca.pem")),
        (
            Telemetry(endpoint="http://c/v1/traces", protocol="http/protobuf"),
            Collector(host="c", port=4318, url="http://c/v1/traces"),
        ),
        (Telemetry(endpoint="http://c:1", sampler="always_off"), Collector(host="c", port=1, sampled_percent=0)),
        (
            Telemetry(endpoint="http://c:1", sampler="parentbased_traceidratio", sampler_ratio=0.25),
            Collector(host="c", port=1, sampled_percent=25),
        ),
    ],
)
def test_collectors(telemetry: Telemetry, collector: Collector | None) -> None:
    assert Collector.of(telemetry, "ca.pem") == collector


@pytest.mark.parametrize("endpoint", ["http://", "http://host:port", "http://[::1"])
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidConfig):
        Collector.of(Telemetry(endpoint=endpoint), "ca.pem")
