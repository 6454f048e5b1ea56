"""Which deadline, which retries and which instances hold for each call of a service. Pure.

Weakest first: defaults (`model`), the service config beside the contract, the one in the registry's KV store
(`service_config`), and Consul's config entries (`entries`, `chain`). `compile` makes one policy of them.
"""

from __future__ import annotations

from mesh.policy.compile import compiled, made, permissive, reachable
from mesh.policy.entries import KINDS, Entries, Entry
from mesh.policy.fault import PREFIX as FAULTS
from mesh.policy.fault import Fault, fault_on
from mesh.policy.fault import parse as parse_fault
from mesh.policy.model import (
    DEFAULT_TIMEOUT_SECONDS,
    Balance,
    Balancing,
    Destination,
    Limits,
    Match,
    MethodPolicy,
    OutlierDetection,
    Policy,
    Retry,
    Route,
    Share,
    Target,
)
from mesh.policy.parse_entries import parse as parse_entry
from mesh.policy.reading import not_in_force
from mesh.policy.said import NONE, Said, consulted, good, placed
from mesh.policy.service_config import NOTHING, PREFIX, ServiceConfig
from mesh.policy.service_config import parse as parse_service_config

__all__ = [
    "DEFAULT_TIMEOUT_SECONDS",
    "FAULTS",
    "KINDS",
    "NONE",
    "NOTHING",
    "PREFIX",
    "Balance",
    "Balancing",
    "Destination",
    "Entries",
    "Entry",
    "Fault",
    "Limits",
    "Match",
    "MethodPolicy",
    "OutlierDetection",
    "Policy",
    "Retry",
    "Route",
    "Said",
    "ServiceConfig",
    "Share",
    "Target",
    "compiled",
    "consulted",
    "fault_on",
    "good",
    "made",
    "not_in_force",
    "parse_entry",
    "parse_fault",
    "parse_service_config",
    "permissive",
    "placed",
    "reachable",
]
