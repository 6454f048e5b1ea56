"""What `mesh up` and `mesh ps` print. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from mesh.up.plan import OTLP_VARIABLE, Plan
from mesh.up.stack import FILE

if TYPE_CHECKING:
    from meshwright.launcher.v1 import launcher_service_pb2 as pb


def banner(plan: Plan) -> str:
    """Where everything is, and what to try."""
    gateway = f"localhost:{plan.ports.gateway}"
    commands = plan.stack.try_out or _COMMANDS
    rows = _table(_places(plan, gateway))
    tries = "\n".join(f"  {command.replace('{gateway}', gateway)}" for command in commands)
    return f"{rows}\n\nTry:\n{tries}\n"


def remarks(plan: Plan) -> Iterator[str]:
    """What a user may not have meant."""
    if not plan.has_stack_file:
        yield f"there is no {FILE} in {plan.folder}, so no service is started: only the mesh itself"
    for service in plan.stack.services:
        if service.replicas == 0:
            yield f"{FILE} has replicas = 0 for {service.name}, so none is started"


_COMMANDS = ("mesh ps", "grpcurl -plaintext {gateway} list", "mesh run --service NAME -- COMMAND")


def _places(plan: Plan, gateway: str) -> list[tuple[str, str]]:
    places = [("gateway", f"http://{gateway} (REST, gRPC)")]
    if plan.lacks(OTLP_VARIABLE):
        places.append(("console", f"http://{gateway}/console/"))
        places.append(("OTLP", f"gRPC localhost:{plan.ports.otlp_grpc}, HTTP localhost:{plan.ports.otlp_http}"))
    own = plan.lacks("CONSUL_HTTP_ADDR")
    registry = f"http://localhost:{plan.ports.registry}" if own else plan.environ["CONSUL_HTTP_ADDR"]
    return [*places, ("registry", registry), ("xDS", f"mesh bootstrap: {plan.paths.bootstrap}"), *_rest(plan)]


def _rest(plan: Plan) -> list[tuple[str, str]]:
    return [("data, logs", f"{plan.paths.state}, {plan.paths.logs}")]


def process_table(processes: Iterable[pb.Process]) -> str:
    """`mesh ps` for people."""
    header = ("NAME", "PID", "STATE", "RESTARTS", "ADDRESS")
    return _table([header, *(_row(process) for process in processes)])


def process_json(processes: Iterable[pb.Process]) -> str:
    """`mesh ps` for programs."""
    keys = ("name", "pid", "state", "restarts", "address")
    rows = [dict(zip(keys, _values(process), strict=True)) for process in processes]
    return json.dumps(rows, indent=2)


def _values(process: pb.Process) -> tuple[str, int, str, int, str]:
    from mesh.up.service import state_of

    return process.name, process.pid, str(state_of(process)), process.restarts, process.address


def _row(process: pb.Process) -> tuple[str, ...]:
    name, pid, state, restarts, address = _values(process)
    return name, str(pid or "-"), state, str(restarts), address or "-"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
