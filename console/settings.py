"""What can be set, parsed once from a mapping."""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from console.store import Limits
from mesh.config import Variables
from mesh.registry.model import is_ip

if TYPE_CHECKING:
    from collections.abc import Mapping

JAEGER_QUERY_PORT = 16686
"""Where Jaeger serves the same API; used when `PORT` is not set."""

MAX_PORT = 65_535
MAX_REQUEST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of the console process."""

    host: str = "127.0.0.1"
    """IP address that all three listen on."""
    names: tuple[str, ...] = ()
    """Host names by which people may ask, besides localhost and IP addresses."""
    token: str = field(default="", repr=False)
    """What whoever reads must have; empty for nothing."""
    query_port: int = JAEGER_QUERY_PORT
    otlp_grpc_port: int = 4317
    otlp_http_port: int = 4318
    max_request_bytes: int = MAX_REQUEST_BYTES
    """Bound of one export, also after decompression."""
    grace_seconds: float = 2.0
    """How long exports in flight may take when the process is told to stop."""
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def from_mapping(
        cls,
        environ: Mapping[str, str],
        *,
        host: str = "127.0.0.1",
        otlp_grpc_port: int = 4317,
        otlp_http_port: int = 4318,
        query_port: int | None = None,
    ) -> Settings:
        """Settings from flags, `PORT` and `MESH_CONSOLE_*`; raises InvalidConfig with all problems.

        Beyond loopback there is always a token: one is made up where none is given.
        """
        flags = {"--otlp-grpc-port": otlp_grpc_port, "--otlp-http-port": otlp_http_port, "--port": query_port}
        given = {name: str(port) for name, port in flags.items() if port is not None}
        read, defaults = Variables({**environ, **given}), Limits()
        if not is_ip(host):
            read.problems.append(f"--host must be an IP address, got {host!r}")
        settings = cls(
            host=host,
            names=tuple(read.text("MESH_CONSOLE_HOSTS").lower().split()),
            token=read.text("MESH_CONSOLE_TOKEN") or _token_for(host),
            otlp_grpc_port=read.integer("--otlp-grpc-port", 0, maximum=MAX_PORT),
            otlp_http_port=read.integer("--otlp-http-port", 0, maximum=MAX_PORT),
            query_port=read.integer("PORT" if query_port is None else "--port", JAEGER_QUERY_PORT, maximum=MAX_PORT),
            max_request_bytes=read.integer("MESH_CONSOLE_MAX_REQUEST_BYTES", MAX_REQUEST_BYTES, minimum=1_024),
            limits=Limits(
                max_spans=read.integer("MESH_CONSOLE_MAX_SPANS", defaults.max_spans, minimum=1),
                max_bytes=read.integer(
                    "MESH_CONSOLE_MAX_BYTES", defaults.max_bytes, minimum=1_048_576, maximum=sys.maxsize
                ),
                max_trace_spans=read.integer("MESH_CONSOLE_MAX_TRACE_SPANS", defaults.max_trace_spans, minimum=1),
            ),
        )
        read.check()
        return settings


def _token_for(host: str) -> str:
    return "" if is_ip(host) and ip_address(host).is_loopback else secrets.token_urlsafe(18)
