"""What each kind of xDS client takes. Pure.

A client that is sent what it does not take refuses the whole response (NACK) and may fail every call, so a
resource is put into the client's dialect before it is sent. Measured with grpcio 1.85, grpcurl 1.8 (gRPC-Go
1.44), grpc-js-xds 1.14 and Envoy 1.40.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Unreachable(enum.Enum):
    """How a client is told of a service without a healthy instance, so that its calls fail at once."""

    EMPTY_CLUSTER = "empty cluster"
    """A cluster without endpoints whose EDS name says why: fails fast, honours wait_for_ready, prints the name."""

    NAMED_ENDPOINT = "named endpoint"
    """A cluster whose one address says why and is no host name: dialing it fails fast and prints it. An empty
    cluster hangs there, and so does a route configuration without routes in a program that dials before it calls."""

    NAMED_ZONE = "named zone"
    """A cluster whose one address is this host's own, at a port where nobody listens, with an IPv6 zone that says why:
    dialing it fails at once, prints the zone and honours wait_for_ready. An empty cluster does not say why, a named
    endpoint is refused, and no route fails calls that wait_for_ready too."""

    NO_ROUTE = "no route"
    """A route configuration that matches nothing."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What one kind of client takes."""

    name: str
    method_timeouts: bool = True
    """Takes `max_stream_duration`. C-core in Python fires it 1 to 2 s early (grpc/grpc#34547), so it gets none."""

    unreachable: Unreachable = Unreachable.NO_ROUTE
    envoy: bool = False
    """Takes what only Envoy has: retry host predicates, budgets, upstream protocol options."""


CORE = Dialect(name="C-core", method_timeouts=False, unreachable=Unreachable.EMPTY_CLUSTER)
GO = Dialect(name="Go", unreachable=Unreachable.NAMED_ENDPOINT)
JAVA = Dialect(name="Java")
NODE = Dialect(name="Node", unreachable=Unreachable.NAMED_ZONE)
ENVOY = Dialect(name="Envoy", unreachable=Unreachable.EMPTY_CLUSTER, envoy=True)

_BY_PREFIX = {"gRPC C-core": CORE, "gRPC Go": GO, "gRPC Java": JAVA, "gRPC Node": NODE, "envoy": ENVOY}


def dialect_of(user_agent: str) -> Dialect:
    """The dialect of a client by its `node.user_agent_name`; an unknown one is spoken to as Go."""
    return next((d for prefix, d in _BY_PREFIX.items() if user_agent.startswith(prefix)), GO)
