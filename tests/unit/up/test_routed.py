"""What Envoy tells of its routes and clusters, as `mesh up` reads it."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.up.routed import ends, filled


def test_every_end_of_a_route_is_found() -> None:
    weighted = {"weighted_clusters": {"clusters": [{"name": "order:v1", "weight": 9}, {"name": "order:v2"}]}}
    routes = [
        {"match": {"path": "/a"}, "route": {"cluster": "sync", "timeout": "0s"}},
        {"name": "b", "route": weighted},
        {"direct_response": {"status": 404}},
    ]
    dump = {"configs": [{"dynamic_route_configs": [{"route_config": {"virtual_hosts": [{"routes": routes}]}}]}]}
    assert list(ends(dump)) == ["sync", "order:v1", "order:v2"]
    assert list(ends({})) == []


def test_a_cluster_counts_with_an_instance_that_is_well() -> None:
    def cluster(name: str, *healths: Mapping[str, object]) -> dict[str, object]:
        return {"name": name, "host_statuses": [{"health_status": health} for health in healths]}

    well, ill = {"eds_health_status": "HEALTHY"}, {"eds_health_status": "UNHEALTHY"}
    ejected = {"failed_outlier_check": True, "eds_health_status": "HEALTHY"}
    found = [cluster("sync", ill, well), cluster("order", ill), cluster("status", ejected), {"name": "away"}]
    assert list(filled({"cluster_statuses": found})) == ["sync"]
    assert list(filled({})) == []
