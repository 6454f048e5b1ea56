"""What can be set, parsed once from a mapping."""

from __future__ import annotations

import re
import secrets
import sys
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from console.store import Limits
from mesh.errors import InvalidConfig
from mesh.registry.model import is_ip

if TYPE_CHECKING:
    from collections.abc import Mapping

JAEGER_QUERY_PORT = 16686
"""Where Jaeger serves the same API; used when `PORT` is not set."""

MAX_PORT = 65_535


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
    max_request_bytes: int = 16 * 1024 * 1024
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
        numbers = _Numbers(environ)
        defaults = Limits()
        if not is_ip(host):
            numbers.problems.append(f"--host must be an IP address, got {host!r}")
        settings = cls(
            host=host,
            names=tuple(environ.get("MESH_CONSOLE_HOSTS", "").lower().split()),
            token=environ.get("MESH_CONSOLE_TOKEN", "").strip() or _token_for(host),
            otlp_grpc_port=numbers.check("--otlp-grpc-port", str(otlp_grpc_port), 0, MAX_PORT),
            otlp_http_port=numbers.check("--otlp-http-port", str(otlp_http_port), 0, MAX_PORT),
            query_port=numbers.read("PORT", JAEGER_QUERY_PORT, 0, MAX_PORT)
            if query_port is None
            else numbers.check("--port", str(query_port), 0, MAX_PORT),
            max_request_bytes=numbers.read("MESH_CONSOLE_MAX_REQUEST_BYTES", 16 * 1024 * 1024, 1_024, 2**31 - 1),
            limits=Limits(
                max_spans=numbers.read("MESH_CONSOLE_MAX_SPANS", defaults.max_spans, 1),
                max_bytes=numbers.read("MESH_CONSOLE_MAX_BYTES", defaults.max_bytes, 1_048_576),
                max_trace_spans=numbers.read("MESH_CONSOLE_MAX_TRACE_SPANS", defaults.max_trace_spans, 1),
            ),
        )
        if numbers.problems:
            raise InvalidConfig.of(numbers.problems)
        return settings


def _token_for(host: str) -> str:
    return "" if is_ip(host) and ip_address(host).is_loopback else secrets.token_urlsafe(18)


class _Numbers:
    """Whole numbers out of a mapping; problems are collected."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._environ = environ

    def read(self, name: str, default: int, low: int, high: int = sys.maxsize) -> int:
        return self.check(name, self._environ.get(name) or str(default), low, high)

    def check(self, name: str, text: str, low: int, high: int) -> int:
        value = int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else -1
        if not low <= value <= high:
            expected = f"of at least {low}" if high == sys.maxsize else f"from {low} to {high}"
            self.problems.append(f"{name} must be a whole number {expected}, got {text!r}")
        return value
