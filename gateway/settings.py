"""What the edge is told at its start. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from mesh.config import Telemetry
from mesh.errors import InvalidConfig

DEFAULT_PORT: Final = 8080
REQUEST_SECONDS: Final = 60.0
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""Longest body of a REST request: gRPC's own limit for one message."""

LOCAL_ORIGINS: Final = tuple(
    f"{scheme}://{host}:*" for scheme in ("http", "https") for host in ("localhost", "127.0.0.1", "[::1]")
)
"""Pages that come from this machine, from whatever port."""

MAX_HEADERS: Final = 100
MAX_HEADERS_KIB: Final = 16
"""All of a request's headers together. What is let in here, a service must be able to take as metadata."""


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Where Envoy sends its spans by OTLP."""

    host: str
    port: int
    ca_file: str = ""
    """Certificates to trust, in PEM; empty for no TLS."""

    url: str = ""
    """Full URL for OTLP over HTTP; empty for OTLP over gRPC."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    sampled_percent: float = 100.0
    """Of the traces that start at the edge; a caller's `traceparent` decides for its own."""

    @classmethod
    def of(cls, telemetry: Telemetry, ca_file: str) -> Self | None:
        """From the OTEL_* settings that every process of the mesh has; None when nothing is exported.

        `ca_file` is used for https only. InvalidConfig for an endpoint that is no URL.
        """
        if not telemetry.endpoint:
            return None
        endpoint = telemetry.endpoint if "://" in telemetry.endpoint else f"http://{telemetry.endpoint}"
        http = telemetry.protocol != "grpc"
        try:
            url = urlsplit(endpoint)
            host, port = url.hostname, url.port
        except ValueError:
            host, port = None, None
        if not host:
            raise InvalidConfig.of([f"OTEL_EXPORTER_OTLP_ENDPOINT={telemetry.endpoint!r} is not http(s)://HOST:PORT"])
        return cls(
            host=host,
            port=port or (4318 if http else 4317),
            ca_file=ca_file if url.scheme == "https" else "",
            url=endpoint if http else "",
            headers=telemetry.headers,
            sampled_percent=_percent(telemetry),
        )


@dataclass(frozen=True, kw_only=True)
class EdgeSettings:
    """One edge."""

    reflection_socket: Path
    """Where the control process serves the merged reflection."""

    http_socket: Path
    """Where it serves /docs and /openapi.json."""

    address: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    console_port: int = 0
    """Where the console of this stack listens on 127.0.0.1; 0 for none."""

    collector: Collector | None = None
    access_log: str = ""
    """Path of a file that gets one JSON line for each request; `/dev/stdout` works; empty for none."""

    cors_origins: tuple[str, ...] = LOCAL_ORIGINS
    """Origins whose pages may call: exact ones, such as `https://app.example`; one that ends with `:*` stands for
    every port, and `*` alone for every origin."""

    max_body_bytes: int = MAX_BODY_BYTES
    request_seconds: float = REQUEST_SECONDS
    """How long a REST request may take to arrive, and one that goes nowhere to be answered."""

    identity: Path | None = None
    """Folder of the edge's certificate; None for plaintext."""

    stream_idle_seconds: int = 3600
    """A stream on which nothing moves for so long is ended."""


def read_origins(text: str) -> tuple[str, ...]:
    """Origins from a list with commas or blanks; the local ones for an empty text. InvalidConfig with all problems."""
    origins = tuple(dict.fromkeys(text.replace(",", " ").split())) or LOCAL_ORIGINS
    problems = [f"{origin!r} is no origin, such as https://app.example" for origin in origins if not _is_origin(origin)]
    if problems:
        raise InvalidConfig.of(problems)
    return origins


def _is_origin(text: str) -> bool:
    return bool(text == "*" or _ORIGIN.fullmatch(text))


_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s*]+(?::\*)?")


def _percent(telemetry: Telemetry) -> float:
    if telemetry.sampler.endswith("always_off"):
        return 0.0
    return 100.0 * telemetry.sampler_ratio if telemetry.sampler.endswith("traceidratio") else 100.0
