"""What of Envoy's statistics is shown, and how much at most."""

from __future__ import annotations

from pathlib import Path

from gateway.statistics import MOST_CLUSTERS, ask, families
from tests.fixtures.prometheus import value

PAGE = """\
# TYPE envoy_http_downstream_rq_xx counter
envoy_http_downstream_rq_xx{envoy_response_code_class="5",envoy_http_conn_manager_prefix="edge"} 3
# TYPE envoy_http_downstream_rq_time histogram
envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix="edge",le="0.5"} 1
envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix="edge",le="1000"} 2
envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix="edge",le="+Inf"} 2
envoy_http_downstream_rq_time_sum{envoy_http_conn_manager_prefix="edge"} 900.25
envoy_http_downstream_rq_time_count{envoy_http_conn_manager_prefix="edge"} 2
# TYPE envoy_server_uptime gauge
envoy_server_uptime{} 1
# TYPE envoy_cluster_upstream_rq_total counter
"""


def test_names_are_as_prometheus_takes_them_and_times_are_in_seconds() -> None:
    found = {family.name: family for family in families(PAGE)}
    assert value(found, "envoy_http_downstream_rq_xx_total", envoy_response_code_class="5") == 3
    assert value(found, "gateway_request_duration_seconds_bucket", le="1.0") == 2
    assert value(found, "gateway_request_duration_seconds_sum") == 0.90025
    assert "envoy_server_uptime" not in found


def test_services_beyond_many_are_shown_as_one() -> None:
    lines = (f'envoy_cluster_upstream_rq_total{{envoy_cluster_name="s{n:04}"}} 2\n' for n in range(MOST_CLUSTERS + 3))
    (family,) = [one for one in families(PAGE + "".join(lines)) if one.name == "envoy_cluster_upstream_rq"]
    assert len(family.samples) == MOST_CLUSTERS + 1
    assert value({"": family}, "envoy_cluster_upstream_rq_total", envoy_cluster_name="_OTHER") == 6


def test_without_an_envoy_there_is_nothing_to_show(tmp_path: Path) -> None:
    page = ask(tmp_path / "nobody")
    assert [sample for family in families(page) for sample in family.samples] == []
