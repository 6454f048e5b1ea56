"""Balancing by what instances report of their load. Pure."""

from __future__ import annotations

from envoy.config.cluster.v3.cluster_pb2 import LoadBalancingPolicy
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
    client_side_weighted_round_robin_pb2 as weighted,
)
from envoy.extensions.load_balancing_policies.round_robin.v3.round_robin_pb2 import RoundRobin
from envoy.extensions.load_balancing_policies.wrr_locality.v3.wrr_locality_pb2 import WrrLocality
from google.protobuf.message import Message

from mesh.policy import Balancing
from mesh.xds.parts import duration, packed


def weighted_round_robin(wanted: Balancing) -> LoadBalancingPolicy:
    """For a cluster's `load_balancing_policy`: weights from the reports in trailers, zones by their own weights.

    gRFC A58. gRPC-Go has it since 1.56, C-core since 1.55; a client that does not goes round (A52: it takes the first
    that it knows).
    """
    inside = weighted.ClientSideWeightedRoundRobin(
        blackout_period=duration(wanted.blackout_seconds),
        weight_update_period=duration(wanted.weight_update_seconds),
        weight_expiration_period=duration(wanted.weight_expiration_seconds),
    )
    inside.error_utilization_penalty.value = wanted.error_penalty
    choices = _policies(client_side_weighted_round_robin=inside, round_robin=RoundRobin())
    return _policies(wrr_locality=WrrLocality(endpoint_picking_policy=choices))


def _policies(**configs: Message) -> LoadBalancingPolicy:
    return LoadBalancingPolicy(policies=[
        LoadBalancingPolicy.Policy(typed_extension_config=TypedExtensionConfig(
            name=f"envoy.load_balancing_policies.{name}", typed_config=packed(config)
        ))
        for name, config in configs.items()
    ])  # fmt: skip
