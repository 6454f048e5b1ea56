"""What /metrics of the processes that serve xDS comes to."""

from __future__ import annotations

import pytest

from console.feeds import addresses, feed

TEXT = """\
# TYPE xds_streams gauge
xds_streams 5.0
# TYPE xds_nacks_total counter
xds_nacks_total{type="Cluster"} 1.0
xds_nacks_total{type="Listener"} 2.0
# TYPE mesh_snapshot_age_seconds gauge
mesh_snapshot_age_seconds 1.25
# TYPE mesh_propagation_seconds histogram
mesh_propagation_seconds_bucket{le="0.005"} 3.0
mesh_propagation_seconds_bucket{le="0.1"} 4.0
mesh_propagation_seconds_bucket{le="+Inf"} LAST
mesh_propagation_seconds_count LAST
mesh_propagation_seconds_sum 1.0
"""


@pytest.mark.parametrize(("last", "p99"), [("4.0", 0.1), ("5.0", None)])
def test_a_feed(last: str, p99: float | None) -> None:
    assert feed("sidecar", TEXT.replace("LAST", last)) == {
        "job": "sidecar",
        "streams": 5,
        "pushes": 0,
        "acks": 0,
        "nacks": 3,
        "snapshot_age_seconds": 1.25,
        "propagation": {"count": int(float(last)), "p50": 0.005, "p99": p99},
    }


def test_one_that_says_nothing() -> None:
    found = feed("gateway", "")
    assert (found["snapshot_age_seconds"], found["propagation"]) == (None, {"count": 0, "p50": None, "p99": None})


def test_addresses_of_jobs() -> None:
    groups = [
        {"targets": ["127.0.0.1:1"], "labels": {"job": "sidecar"}},
        {"targets": ["127.0.0.1:2"], "labels": {"job": "order"}},
        {"targets": ["127.0.0.1:3"], "labels": {}},
    ]
    assert addresses(groups, ("sidecar", "gateway")) == [("sidecar", "127.0.0.1:1")]
