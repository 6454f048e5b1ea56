"""`mesh run`, `sidecar` and `gateway`: processes of the mesh, in the foreground."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from mesh.cli.parts import DIRECTORY, alone, log_to_stderr, mtls_or_plaintext, paths_of
from mesh.paths import Paths


@click.command(
    "run",
    short_help="Run a program on the mesh for as long as it lives.",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
@click.option("--service", required=True, help="Name that clients dial, as in xds:///NAME.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port that it listens on [a free one, given as PORT].")
@click.option("--address", default="127.0.0.1", show_default=True, help="IP address that others reach it at.")
@click.option("--zone", default="", help="Zone that it runs in.")
@click.option("--tag", "tags", multiple=True, help="Tag in the registry; repeatable.")
@click.option("--meta", "meta", multiple=True, metavar="KEY=VALUE", help="Metadata in the registry; repeatable.")
@click.option("--protocol", type=click.Choice(["grpc", "http"]), default="grpc", show_default=True)
@click.option("--http-prefix", "http_prefixes", multiple=True, metavar="PATH", help="Path that the gateway sends it.")
@click.option("--descriptors", type=click.Path(path_type=Path), help="Serialized FileDescriptorSet of what it serves.")
@click.option("--service-config", type=click.Path(path_type=Path), help="gRPC service config (JSON) for its callers.")
@mtls_or_plaintext
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@DIRECTORY
def _run(directory: Path | None, command: tuple[str, ...], **options: Any) -> int:
    """Run COMMAND as an instance of a service, for as long as it lives; exit with its code.

    COMMAND listens on the port in PORT. It is in rotation while it is healthy: by grpc.health.v1, else by its port.

    SIGTERM and SIGINT (Ctrl-C) take it out of rotation, then end it; a second one ends it at once. SIGHUP, SIGQUIT,
    SIGUSR1, SIGUSR2 and SIGWINCH are handed on to COMMAND, whose end, if it makes that of them, ends this too: so does
    a terminal that closes, for a COMMAND that does not handle SIGHUP. SIGTSTP (Ctrl-Z) and SIGCONT suspend and resume
    both.
    """
    from mesh import member, member_options
    from mesh.guard import guarded

    log_to_stderr()
    paths = paths_of(directory)
    settings = member_options.settings(options, command, paths, dict(os.environ))
    paths.prepare()
    try:
        with guarded(), alone():
            return asyncio.run(member.run(settings))
    finally:
        paths.retire()


@click.command("sidecar", short_help="Run the sidecar of this host.")
@click.option("--zone", default="", help="Zone of the clients on this host.")
@mtls_or_plaintext
@DIRECTORY
def _sidecar(directory: Path | None, zone: str, mtls: bool | None) -> None:
    """Run the sidecar of this host: registers local programs, serves xDS to local clients."""
    from mesh import sidecar
    from mesh.config import Watch, is_secured
    from mesh.metrics_page import place_of
    from mesh.registry import RegistrySettings
    from mesh.watchdog import watched

    log_to_stderr()
    paths = Paths.locate(os.environ, directory)
    paths.prepare()
    registry, metrics = RegistrySettings.from_env(os.environ), place_of(os.environ)
    with alone():
        watch = Watch.of({**os.environ, "MESH_STACKS": str(paths.run)}, "sidecar")
        plaintext = not is_secured(os.environ, mtls)
        settings = sidecar.SidecarSettings.at(paths, registry, zone, metrics, plaintext=plaintext)
        asyncio.run(watched(watch, sidecar.serve(settings)))


@click.command(
    "gateway",
    short_help="Run the control process of the edge.",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def _gateway(arguments: tuple[str, ...]) -> int:
    """Run the control process of the edge (`mesh gateway --help` for its own options)."""
    from gateway.__main__ import main as gateway

    return gateway(arguments, "mesh gateway") or 0


COMMANDS = (_run, _sidecar, _gateway)
