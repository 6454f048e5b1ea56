"""Static part of Envoy's configuration: where its control process is, and limits that protect the process. Pure.

Everything else comes by ADS, so that Envoy is started once and never restarted for a change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

CONTROL_CLUSTER: Final = "edge/control"
"""Cluster of the control process. A slash is in no service's name, so it can collide with none."""

_TYPE: Final = "type.googleapis.com/envoy.extensions."


def envoy_bootstrap(
    *,
    ads_socket: Path,
    admin_socket: Path,
    node_id: str = "gateway",
    max_connections: int = 20_000,
    max_heap_bytes: int = 1 << 30,
) -> dict[str, Any]:
    """Configuration to start Envoy with, ready for `json.dumps`.

    `ads_socket` need not exist yet: Envoy connects to it, and connects again, with back-off.
    """
    return {
        "node": {"id": node_id, "cluster": "gateway"},
        "admin": {"address": _pipe(admin_socket, mode=0o600)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": CONTROL_CLUSTER, "retry_policy": _RECONNECT}}],
            },
            "lds_config": _ADS,
            "cds_config": _ADS,
        },
        "static_resources": {"clusters": [_control_cluster(ads_socket)]},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": _RUNTIME}]},
        "overload_manager": _overload_manager(max_connections, max_heap_bytes),
    }


_ADS: Final[dict[str, Any]] = {
    "ads": {},
    "resource_api_version": "V3",
    # An Envoy that has been told nothing is never ready, so it takes over from none that has.
    "initial_fetch_timeout": "0s",
}

_RECONNECT: Final[dict[str, Any]] = {
    # Envoy's own is half a second to thirty: too long to wait for a control process that starts again.
    "retry_back_off": {"base_interval": "0.05s", "max_interval": "1s"},
}

_RUNTIME: Final[dict[str, Any]] = {
    # Envoy exports spans every 5 s unless told otherwise.
    "tracing": {"opentelemetry": {"flush_interval_ms": 200, "min_flush_spans": 64}},
    # Envoy's own limit of 100 is reached by the name of one method and a few alternatives; RE2 has limits of its own.
    "re2": {"max_program_size": {"error_level": 1_000_000}},
}


def _control_cluster(socket: Path) -> dict[str, Any]:
    return {
        "name": CONTROL_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _TYPE + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": CONTROL_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _pipe(socket)}}]}],
        },
    }


def _overload_manager(max_connections: int, max_heap_bytes: int) -> dict[str, Any]:
    """Too many connections are refused, and near the heap's limit new requests are, before the kernel kills us."""
    return {
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": _TYPE + "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": max_connections,
                },
            },
            {
                "name": "envoy.resource_monitors.fixed_heap",
                "typed_config": {
                    "@type": _TYPE + "resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": max_heap_bytes,
                },
            },
        ],
        "actions": [
            {
                "name": "envoy.overload_actions.stop_accepting_requests",
                "triggers": [{"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": 0.95}}],
            }
        ],
    }


def _pipe(socket: Path, **more: int) -> dict[str, Any]:
    return {"pipe": {"path": str(socket), **more}}
