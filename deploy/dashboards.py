"""`python -m deploy.dashboards` writes Grafana's dashboards; `--check` tells whether they are as written here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.panels import board, chart, figure
from deploy.queries import JOB, NAMED, PARTS, Query, failed, most, p, quantiles, rate, rise, total

FOLDER = Path(__file__).parent / "grafana" / "dashboards"

SERVED, SENT = "rpc_server_call_duration_seconds", "rpc_client_call_duration_seconds"
LAG = "event_loop_lag_seconds"


def overview() -> Dashboard:
    """Is everything well, and where is it not?"""
    failing, nobodys = failed(SERVED, where=NAMED), "Those that are no caller's fault."
    firing = Query('count(ALERTS{alertstate="firing"}) or vector(0)')
    return board("overview", "Overview", {
        "Now": [
            figure("Processes", "short", total("up"), about="Processes that answer Prometheus."),
            figure("Processes down", "short", Query("sum(up == bool 0)"), bad=1, about="Processes that do not."),
            figure("Alerts", "short", firing, bad=1, about="Alerts that fire."),
            figure("Calls", "reqps", rate(f"{SERVED}_count"), about="Calls that services answer."),
            figure("Failed calls", "percentunit", failing, bad=0.1, about=nobodys),
            figure("Latency, p99", "s", p(0.99, SERVED), bad=1.0, about="One answer in a hundred takes longer."),
        ],
        "Services": [
            chart("Calls", "reqps", rate(f"{SERVED}_count", "job")),
            chart("Failed calls", "percentunit", failed(SERVED, "job", where=NAMED)),
            chart("Latency, p99", "s", p(0.99, SERVED, "job"), traces=True),
        ],
        "Work": [
            chart("Orders", "ops", rate("order_processing_total", "status")),
            chart("Orders that wait", "short", most("order_queue_waiting")),
            chart("Events that wait", "short", most("outbox_waiting", "job")),
        ],
        "Processes": [
            chart("Lag of the event loop, p99", "s", p(0.99, LAG, "job")),
            chart("CPU", "percentunit", rate("process_cpu_seconds_total", "job")),
            chart("Memory", "bytes", total("process_resident_memory_bytes", "job")),
        ],
    })  # fmt: skip


def service() -> Dashboard:
    """How one service does, method by method and process by process."""
    errors = f'{JOB}, rpc_response_status_code!="OK"'
    return board("service", "Service", {
        "Calls that it answers": [
            chart("Calls", "reqps", rate(f"{SERVED}_count", "rpc_method", where=JOB)),
            chart("Errors", "reqps", rate(f"{SERVED}_count", "rpc_method", "rpc_response_status_code", where=errors)),
            chart("Latency", "s", *quantiles(SERVED, where=JOB), traces=True),
            chart("Latency, p99", "s", p(0.99, SERVED, "rpc_method", where=JOB), traces=True),
        ],
        "Calls that it sends": [
            chart("Calls", "reqps", rate(f"{SENT}_count", "server_address", "rpc_method", where=JOB)),
            chart("Failed calls", "percentunit", failed(SENT, "server_address", where=JOB)),
            chart("Latency, p99", "s", p(0.99, SENT, "server_address", where=JOB), traces=True),
        ],
        "Processes": [
            chart("Lag of the event loop, p99", "s", p(0.99, LAG, "instance", where=JOB)),
            chart("Stalls of the event loop", "short", rise("event_loop_stalls_total", "instance", where=JOB)),
            chart("CPU", "percentunit", rate("process_cpu_seconds_total", "instance", where=JOB)),
            chart("Memory", "bytes", total("process_resident_memory_bytes", "instance", where=JOB)),
            chart("Open files", "short", total("process_open_fds", "instance", where=JOB)),
            chart(
                "Connections", "short",
                total("connection_pool_connections", "pool", "state", "instance", where=JOB),
                total("connection_pool_waiting", "pool", "instance", where=JOB),
            ),
        ],
    }, of_one_service=True)  # fmt: skip


def sync_and_orders() -> Dashboard:
    """Users that are pulled, orders that are worked off, tasks, and the events of all that."""
    hour = "1h"
    return board("sync-and-orders", "Sync and orders", {
        "Sync": [
            chart("Runs that ended", "short", rise("user_sync_total", "status", window=hour)),
            chart("Errors", "short", rise("user_sync_errors_total", "error_type", window=hour)),
            chart("Duration", "s", *quantiles("user_sync_duration_seconds", window=hour)),
        ],
        "Orders": [
            chart("Attempts that ended", "ops", rate("order_processing_total", "status")),
            chart("Errors", "ops", rate("order_processing_errors_total", "error_type")),
            chart("Duration of the work", "s", *quantiles("order_processing_duration_seconds")),
            chart("Orders that wait", "short", most("order_queue_waiting")),
            chart("Age of the oldest that waits", "s", most("order_queue_age_seconds")),
        ],
        "Events": [
            chart("Not told to others yet", "short", most("outbox_waiting", "job")),
            chart("Age of the oldest of these", "s", most("outbox_age_seconds", "job")),
            chart("Waiting for consumers", "short", most("event_group_waiting", "group")),
            chart("In the hands of consumers", "short", most("event_group_pending", "group")),
            chart("Given up", "short", most("event_group_dead_letters", "group")),
        ],
        "Tasks": [
            chart("Runs that ended", "short", rise("task_results_total", "task_name", "status", window=hour)),
            chart("Errors", "short", rise("task_results_errors_total", "task_name", "error_type", window=hour)),
            chart("Duration, p90", "s", p(0.9, "task_results_duration_seconds", "task_name", window=hour)),
        ],
    })  # fmt: skip


def mesh() -> Dashboard:
    """What clients are told by xDS, how soon, and what they refuse; the processes of `mesh up`."""
    parts = 'job=~"sidecar|gateway|console|launcher|registry"'
    return board("mesh", "Mesh", {
        "Clients of xDS": [
            chart("Clients", "short", total("xds_streams", "job", where=PARTS)),
            chart("Responses sent", "ops", rate("xds_pushes_total", "job", "type")),
            chart("Responses refused", "short", rise("xds_nacks_total", "job", "type")),
            chart("From a change until a client has it", "s", *quantiles("mesh_propagation_seconds")),
            chart("Since the registry answered", "s", most("mesh_snapshot_age_seconds", "job", where=PARTS)),
        ],
        "Processes": [
            chart("Processes by state", "short", total("launcher_process_state", "state")),
            chart("Restarts", "short", rise("launcher_process_restarts_total", "process")),
            chart("Lag of the event loop, p99", "s", p(0.99, LAG, "job", where=parts)),
            chart("Event loops that are late now", "s", most("event_loop_stall_seconds", "job", "instance")),
        ],
    })  # fmt: skip


def files() -> Iterator[tuple[Path, str]]:
    """Each file, and what is to be in it."""
    for made in (overview(), service(), sync_and_orders(), mesh()):
        model = made.build()
        yield FOLDER / f"{model.uid}.json", JSONEncoder(sort_keys=True, indent=2).encode(model) + "\n"


def main() -> int:
    """Write, or with `--check` compare; 1 when something differs."""
    wanted = dict(files())
    if "--check" not in sys.argv[1:]:
        for path, text in wanted.items():
            path.write_text(text, "utf-8")
        return 0
    found = {path: path.read_text("utf-8") for path in FOLDER.glob("*.json")}
    stale = sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))
    for path in stale:
        print(f"{path} is not what deploy/dashboards.py makes: python -m deploy.dashboards", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
