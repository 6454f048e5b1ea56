"""Balancing by what instances report of their load. Pure."""

from __future__ import annotations

from envoy.config.cluster.v3.cluster_pb2 import LoadBalancingPolicy
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
    client_side_weighted_round_robin_pb2 as weighted,
)
from envoy.extensions.load_balancing_policies.wrr_locality.v3.wrr_locality_pb2 import WrrLocality
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

BLACKOUT_SECONDS = 2.0
"""How long an instance must have reported before its weight counts; until then it gets as much as the average."""

UPDATE_SECONDS = 0.5
"""How often weights are worked out anew. gRPC takes nothing below 0.1 s."""


def weighted_round_robin(
    *, blackout_seconds: float = BLACKOUT_SECONDS, update_seconds: float = UPDATE_SECONDS
) -> LoadBalancingPolicy:
    """For a cluster's `load_balancing_policy`: weights from the reports in trailers, zones by their own weights.

    gRFC A58. gRPC-Go takes it since 1.56, C-core since 1.55; a client that does not know it refuses the cluster.
    """
    inside = weighted.ClientSideWeightedRoundRobin(
        blackout_period=_duration(blackout_seconds),
        weight_update_period=_duration(update_seconds),
    )
    outside = WrrLocality(endpoint_picking_policy=_policy("weighted_round_robin", inside))
    return _policy("wrr_locality", outside)


def _policy(name: str, config: Message) -> LoadBalancingPolicy:
    body = Any(type_url="type.googleapis.com/" + config.DESCRIPTOR.full_name, value=config.SerializeToString())
    typed = TypedExtensionConfig(name=name, typed_config=body)
    return LoadBalancingPolicy(policies=[LoadBalancingPolicy.Policy(typed_extension_config=typed)])


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(round(seconds * 1e9))
    return made
