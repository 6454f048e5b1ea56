"""`python -m gateway`: the control process of the edge. Envoy itself is started apart, by `mesh up`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY

from gateway.control import ControlSettings, control
from gateway.reach import Reach
from gateway.security import EDGE
from gateway.settings import DEFAULT_PORT, REQUEST_SECONDS, Collector, EdgeSettings, read_origins
from gateway.statistics import Statistics
from mesh.config import MTLS_VARIABLE, Telemetry, Variables, Watch
from mesh.errors import Code, Error
from mesh.identity_files import folder_of
from mesh.metrics_page import Place, listed, place_of
from mesh.paths import Paths
from mesh.registry import RegistrySettings
from mesh.signals import stopping
from mesh.watchdog import watched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_log = logging.getLogger("gateway")


def main(arguments: Sequence[str] | None = None, command: str = "python -m gateway") -> int:
    """Run until SIGTERM or SIGINT; 0 after a clean stop, 1 if it cannot start."""
    options = _parser(command).parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings, metrics = _settings(options, os.environ), place_of(os.environ)
        asyncio.run(watched(Watch.of(os.environ, "gateway"), _run(settings, metrics)))
    except Error as error:
        print(f"gateway: {error.message}", file=sys.stderr)
        return 1
    return 0


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command,
        description="Tells Envoy by ADS which services there are. The registry is the one that CONSUL_HTTP_ADDR names.",
    )
    parser.add_argument("--address", default="127.0.0.1", help="address that Envoy listens on [127.0.0.1]")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"port that Envoy listens on [{DEFAULT_PORT}]")
    parser.add_argument("--console-port", type=int, default=0, help="port of the console on 127.0.0.1; 0 for none [0]")
    parser.add_argument("--dir", type=Path, help="state folder of the stack [MESH_DIR, else .mesh]")
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        help="origin whose pages may call; again for more; ORIGIN:* for every port, * for all [GATEWAY_CORS_ORIGINS, "
        "else localhost on any port]",
    )
    parser.add_argument(
        "--request-timeout", type=float, default=REQUEST_SECONDS, metavar="SECONDS",
        help=f"how long a REST request may take to arrive [{REQUEST_SECONDS:g}]",
    )  # fmt: skip
    parser.add_argument("--access-log", default="", help="file for one JSON line per request, such as /dev/stdout")
    return parser


def _settings(options: argparse.Namespace, environ: Mapping[str, str]) -> ControlSettings:
    paths = Paths.locate(environ, options.dir)
    paths.prepare()
    _prove_alone(paths, environ)
    variables = Variables(environ)
    telemetry, mtls = Telemetry.read(variables), variables.flag(MTLS_VARIABLE, default=True)
    variables.check()
    edge = EdgeSettings(
        reflection_socket=paths.gateway_reflection_socket,
        http_socket=paths.gateway_http_socket,
        cors_origins=read_origins(" ".join(options.cors_origin) or environ.get("GATEWAY_CORS_ORIGINS", "")),
        address=options.address,
        port=options.port,
        console_port=options.console_port,
        collector=Collector.of(telemetry, _ca_file(environ)),
        access_log=options.access_log,
        request_seconds=options.request_timeout,
        identity=folder_of(paths.identities, EDGE) if mtls else None,
    )
    return ControlSettings(
        ads_socket=paths.gateway_ads_socket,
        catalog=paths.edge_catalog,
        edge=edge,
        registry=RegistrySettings.from_env(environ),
        admin_socket=paths.envoy_admin_socket,
        identities=paths.identities if mtls else None,
    )


def _prove_alone(paths: Paths, environ: Mapping[str, str]) -> None:
    """Raises `Error` beside a stack that did not start this: its Envoy would follow this one from then on."""
    if paths.is_up() and environ.get("MESH_STACKS") != str(paths.run):
        message = (
            f"the stack in {paths.state} has a control process of its edge, which `mesh restart gateway` replaces: name"
            " another folder for this one, with --dir"
        )
        raise Error(Code.FAILED_PRECONDITION, message, reason="ALREADY_UP")


def _ca_file(environ: Mapping[str, str]) -> str:
    """What a collector's certificate is checked against: OpenTelemetry's variable, else the system's."""
    named = environ.get("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE") or environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE")
    return named or ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"


async def _run(settings: ControlSettings, metrics: Place) -> None:
    assert settings.admin_socket
    for collector in (Reach(settings.admin_socket), Statistics(settings.admin_socket)):
        REGISTRY.register(collector)
    with stopping() as stop, listed(settings.ads_socket.parent, "gateway", metrics):
        async with control(settings):
            _log.info(
                "waiting for the registry at %s; then serving Envoy on %s", settings.registry.address,
                settings.ads_socket,
            )  # fmt: skip
            await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
