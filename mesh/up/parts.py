"""The parts of a stack: what each built-in, program and service runs, and when it is ready."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from mesh.errors import InvalidConfig
from mesh.membership import faults
from mesh.process import Command, attend, start
from mesh.run import Instance, Membership, Observer
from mesh.up import probes
from mesh.up.envoy import Envoy, envoy_binary
from mesh.up.plan import Plan
from mesh.up.probes import ProbeOf, anyone, changes
from mesh.up.stack import FILE, Program, Service
from mesh.up.stores import DATABASE
from mesh.up.token import VARIABLE as TOKEN
from mesh.up.unit import Live, Part, Stage, always, never

Members = Callable[[Instance], Live]
"""How an instance of a service lives; given by the launcher, which has the channel to the sidecar."""


def parts(plan: Plan, members: Members) -> list[Part]:
    """All parts in the order in which they are listed.

    Raises `Error` or `InvalidConfig` with lines for people when a binary or a file is missing, or when what the stack
    file says of services cannot work.
    """
    if problems := [line for service in plan.stack.services for line in _faults(plan, service)]:
        raise InvalidConfig.of(problems)
    environ = plan.shared_environ()
    found = [*_stores(plan, environ), *_programs(plan, environ), _sidecar(plan, environ)]
    if plan.has_console:
        found.append(_console(plan, environ))
    return [*found, *_edge(plan, environ), *_services(plan, environ, members)]


_OURS = ("-P", "-m")
"""Starts a module of this distribution, even where the user's folder has one of the same name."""


def process(
    command: Command,
    probe: ProbeOf,
    address: str = "",
    prepare: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> Live:
    """A life that is ready as long as a probe of its process says so."""

    async def live(observer: Observer, stop: asyncio.Event) -> int:
        if prepare is not None:
            await prepare()
        child = await start(command)
        observer.running(child.pid, address)

        async def tell() -> None:
            async for is_ready in changes(probe(child.pid)):
                observer.ready() if is_ready else observer.unready("does not answer")

        async def leave(ended: bool) -> None:
            if not ended:
                observer.draining()

        return await attend(child, stop, aside=tell(), leave=leave)

    return live


def _stores(plan: Plan, environ: Mapping[str, str]) -> Iterator[Part]:
    if plan.has_postgres:
        postgres, log = plan.postgres(), plan.paths.log("postgres")
        ready = anyone(probes.postgres(postgres.socket, DATABASE))
        life = process(postgres.command(log), ready, str(postgres.socket), postgres.prepare)
        yield Part(name="postgres", live=life, log=log)
    if plan.has_valkey:
        valkey, log = plan.valkey(), plan.paths.log("valkey")
        life = process(valkey.command(log), anyone(probes.valkey(valkey.socket)), str(valkey.socket), valkey.prepare)
        yield Part(name="valkey", live=life, log=log)
    if plan.lacks("CONSUL_HTTP_ADDR"):
        port = plan.ports.registry
        arguments = ("--port", str(port), "--data", str(plan.paths.registry))
        ready = anyone(probes.http(port, "/v1/status/leader"))
        yield _module(plan, "registry", ("mesh.registry", *arguments), environ, ready, f"127.0.0.1:{port}")


def _sidecar(plan: Plan, environ: Mapping[str, str]) -> Part:
    socket = plan.paths.sidecar_socket
    arguments = ("mesh", "sidecar", "--dir", str(plan.paths.state))
    return _module(plan, "sidecar", arguments, environ, probes.unix(socket), str(socket), Stage.SIDECAR)


def _module(
    plan: Plan,
    name: str,
    words: tuple[str, ...],
    environ: Mapping[str, str],
    probe: ProbeOf,
    address: str,
    stage: Stage = Stage.STORE,
    surges: Callable[[], bool] = never,
) -> Part:
    """A part that is a Python module of this distribution."""
    log = plan.paths.log(name)
    environ = {**environ, "OTEL_SERVICE_NAME": name}
    command = Command(argv=(sys.executable, *_OURS, *words), environ=environ, log=log)
    return Part(name=name, live=process(command, probe, address), log=log, stage=stage, surges=surges)


def _programs(plan: Plan, environ: Mapping[str, str]) -> Iterator[Part]:
    for program in plan.stack.programs:
        port, log = plan.program_ports[program.name], plan.paths.log(program.name)
        command = Command(
            argv=_python(tuple(word.replace("{port}", str(port)) for word in program.command)),
            environ={**environ, "OTEL_SERVICE_NAME": program.name, **program.environ, "PORT": str(port)},
            directory=plan.folder,
            log=log,
        )
        life = process(command, _program_probe(program, port), f"127.0.0.1:{port}")
        yield Part(name=program.name, live=life, log=log)


def _program_probe(program: Program, port: int) -> ProbeOf:
    return anyone(probes.http(port, program.ready_path) if program.ready_path else probes.tcp(port))


def _edge(plan: Plan, environ: Mapping[str, str]) -> Iterator[Part]:
    paths, port = plan.paths, plan.ports.gateway
    arguments = ("gateway", "--dir", str(paths.state), "--address", plan.host, "--port", str(port))
    console = ("--console-port", str(plan.console_port)) if plan.has_console else ()
    ads = paths.gateway_ads_socket
    yield _module(plan, "gateway", (*arguments, *console), environ, probes.unix(ads), str(ads), Stage.EDGE, always)
    envoy = Envoy(envoy_binary(plan.environ), paths, port, environ, host=plan.host)
    yield Part(name="envoy", live=envoy.live, log=paths.log("envoy"), stage=Stage.EDGE, surges=envoy.can_surge)


def _console(plan: Plan, environ: Mapping[str, str]) -> Part:
    """It has the spans of this stack alone, so it is no service of a mesh that others may share."""
    port = plan.console_port
    flags = {"--port": port, "--otlp-grpc-port": plan.ports.otlp_grpc, "--otlp-http-port": plan.ports.otlp_http}
    words = ("console", *(str(word) for flag in flags.items() for word in flag))
    # The sink does not send its own spans to itself.
    own = {**environ, "OTEL_SDK_DISABLED": "true", TOKEN: plan.console_token}
    return _module(plan, "console", words, own, anyone(probes.tcp(port)), f"127.0.0.1:{port}", Stage.CONSOLE)


def _services(plan: Plan, environ: Mapping[str, str], members: Members) -> Iterator[Part]:
    for service in plan.stack.services:
        for name in service.process_names():
            yield _member(plan, environ, members, service, name)


def _member(plan: Plan, environ: Mapping[str, str], members: Members, service: Service, name: str) -> Part:
    log = plan.paths.log(name)
    instance = Instance(
        membership=_membership(plan, service),
        argv=_python(service.command),
        environ={**environ, **service.environ},
        paths=plan.paths,
        directory=plan.folder,
        log=log,
    )
    needs = ("postgres", "valkey", *(program.name for program in plan.stack.programs if program.provides))
    return Part(name=name, live=members(instance), log=log, stage=Stage.SERVICE, needs=needs, surges=always)


def _membership(plan: Plan, service: Service) -> Membership:
    return Membership(
        service=service.name,
        address=plan.address,
        zone=service.zone,
        tags=service.tags,
        meta=service.meta,
        protocol=service.protocol,
        http_prefixes=service.http_prefixes,
        descriptors=_read(plan.folder, service.descriptors),
        service_config=_read(plan.folder, service.service_config).decode(errors="replace"),
        plaintext=not plan.is_secured or not service.speaks_tls,
    )


def _faults(plan: Plan, service: Service) -> Iterator[str]:
    for field, fault in faults(_membership(plan, service)):
        said = getattr(service, field)
        yield f"{FILE}: services.{service.name}.{field}{f' {said}' if isinstance(said, Path) else ''}: {fault}"


def _read(folder: Path, file: Path | None) -> bytes:
    try:
        data = (folder / file).read_bytes() if file else b""
    except OSError as error:
        raise InvalidConfig.of([f"{FILE}: {file} cannot be read: {error.strerror}"]) from None
    if file and not data:
        raise InvalidConfig.of([f"{FILE}: {file} is empty"])
    return data


def _python(argv: tuple[str, ...]) -> tuple[str, ...]:
    return (sys.executable, *argv[1:]) if argv[0] == "python" else argv
