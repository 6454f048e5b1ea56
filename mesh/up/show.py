"""What `mesh up` and `mesh ps` print. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mesh.tables import table
from mesh.up.plan import Plan
from mesh.up.stack import FILE

if TYPE_CHECKING:
    from meshwright.launcher.v1 import launcher_service_pb2 as pb
    from meshwright.sidecar.v1.sidecar_service_pb2 import Subscription


def banner(plan: Plan) -> str:
    """Where everything is, and what to try."""
    commands = plan.stack.try_out or _COMMANDS
    rows = table(_places(plan, plan.gateway))
    tries = "\n".join(f"  {command.replace('{gateway}', plan.gateway)}" for command in commands)
    return f"{rows}\n\nTry:\n{tries}\n"


def remarks(plan: Plan) -> Iterator[str]:
    """What a user may not have meant."""
    if not plan.is_secured:
        yield "PLAINTEXT: calls between services are not encrypted, and nobody proves who they are"
    if not plan.has_stack_file:
        yield f"there is no {FILE} in {plan.folder}, so no service is started: only the mesh itself"
    for service in plan.stack.services:
        if service.replicas == 0:
            yield f"{FILE} has replicas = 0 for {service.name}, so none is started"


_COMMANDS = ("mesh ps", "grpcurl -plaintext {gateway} list", "mesh run --service NAME -- COMMAND")


def _places(plan: Plan, gateway: str) -> list[tuple[str, str]]:
    places = [("gateway", f"http://{gateway} (REST, gRPC, gRPC-Web)"), ("API", f"http://{gateway}/docs")]
    if plan.has_console:
        token = f"?token={plan.console_token}" if plan.console_token else ""
        places.append(("console", f"http://{gateway}/console/{token}"))
        places.append(("OTLP", f"gRPC localhost:{plan.ports.otlp_grpc}, HTTP localhost:{plan.ports.otlp_http}"))
    own = plan.lacks("CONSUL_HTTP_ADDR")
    registry = f"http://localhost:{plan.ports.registry}" if own else plan.environ["CONSUL_HTTP_ADDR"]
    return [*places, ("registry", registry), ("xDS", f"mesh bootstrap: {plan.paths.bootstrap}"), *_rest(plan)]


def _rest(plan: Plan) -> list[tuple[str, str]]:
    return [("data, logs", f"{plan.paths.state}, {plan.paths.logs}")]


def process_table(processes: Iterable[pb.Process], subscriptions: Iterable[Subscription] | None = None) -> str:
    """`mesh ps` for people; with the subscriptions of xDS clients, `mesh ps --wide`."""
    rows = [(*_HEADER, "NOTE"), *map(_row, processes)]
    has_notes = any(row[-1] for row in rows[1:])
    listed = table([row if has_notes else row[:-1] for row in rows])
    return listed if subscriptions is None else f"{listed}\n\n{_subscription_table(subscriptions)}"


_HEADER = ("NAME", "PID", "STATE", "RESTARTS", "ADDRESS")


def process_json(processes: Iterable[pb.Process], subscriptions: Iterable[Subscription] | None = None) -> str:
    """`mesh ps` for programs: a list of processes; with subscriptions, an object of both lists."""
    rows = [_process(process) for process in processes]
    if subscriptions is None:
        return json.dumps(rows, indent=2)
    held = [_subscription(subscription) for subscription in subscriptions]
    return json.dumps({"processes": rows, "subscriptions": held}, indent=2)


def _subscription_table(subscriptions: Iterable[Subscription]) -> str:
    header = ("CLIENT", "AGENT", "TYPE", "NAMES", "VERSION", "NACKS", "LAST NACK")
    rows = [
        (held["node"], held["agent"], held["type"], ",".join(held["names"]) or "*", held["version"] or "-",
         str(held["nacks"]), " ".join(held["last_nack"].split()) or "-")
        for held in map(_subscription, subscriptions)
    ]  # fmt: skip
    return table([header, *rows]) if rows else "No xDS client asks for anything."


def _subscription(subscription: Subscription) -> dict[str, Any]:
    return {
        "node": subscription.node,
        "agent": subscription.user_agent,
        "type": subscription.type_url.rpartition(".")[2],
        "names": list(subscription.resource_names),
        "version": subscription.acked_version,
        "nacks": subscription.nack_count,
        "last_nack": subscription.last_nack,
    }


def _process(process: pb.Process) -> dict[str, Any]:
    """With a note only where there is one."""
    *values, note = _values(process)
    return {**dict(zip(map(str.lower, _HEADER), values, strict=True)), **({"note": note} if note else {})}


def _values(process: pb.Process) -> tuple[str, int, str, int, str, str]:
    from mesh.up.service import state_of

    return process.name, process.pid, str(state_of(process)), process.restarts, process.address, process.note


def _row(process: pb.Process) -> tuple[str, ...]:
    name, pid, state, restarts, address, note = _values(process)
    return name, str(pid or "-"), state, str(restarts), address or "-", " ".join(note.split())
