"""What goes wrong on a stack arrives at a web hook, by a real Prometheus and a real Alertmanager as deploy/ has them.

All times are shorter: what pages after 5 minutes does so after 10 seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import Stack, stack_in
from tests.fixtures.monitoring import DEPLOY, Monitoring, found_in_consul, monitored, scaled, watching
from tests.fixtures.shop import eventually
from tests.integration.test_deploy import BOARDS, queries

TIMES_FASTER = 30
JOBS = {"console", "gateway", "launcher", "order", "registry", "sidecar", "status", "sync"}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack on the dev registry."""
    with tempfile.TemporaryDirectory(prefix="mesh-alerts-") as name, ExitStack() as ending:
        made = stack_in(Path(name) / "state", None)
        ending.callback(made.mesh, "down", check=False)
        made.up()
        yield made


@pytest.fixture(scope="module")
def monitoring(stack: Stack) -> Iterator[Monitoring]:
    """That watches the stack, and has seen all of it."""
    with monitored(stack.paths.run, stack.state, times_faster=TIMES_FASTER) as made:
        eventually(lambda: {one["metric"]["job"] for one in made.ask("up == 1")} == JOBS)
        yield made


def test_a_prometheus_with_consul_discovery_sees_all_of_it_too(
    stack: Stack, monitoring: Monitoring, tmp_path: Path
) -> None:
    registry = stack.flags[stack.flags.index("--registry-port") + 1]
    (tmp_path / "rules.yml").write_text("groups: []")
    scaled_down = scaled((DEPLOY / "prometheus/prometheus-consul.yml").read_text(), TIMES_FASTER)
    with watching(tmp_path, found_in_consul(scaled_down, f"127.0.0.1:{registry}", tmp_path)) as prometheus:
        other = Monitoring(prometheus, monitoring.hook)

        def seen(by: Monitoring) -> set[tuple[str, str]]:
            return {(one["metric"]["job"], one["metric"]["instance"]) for one in by.ask("up == 1")}

        eventually(lambda: seen(other) == seen(monitoring))
        assert {job for job, _ in seen(other)} == JOBS
        eventually(lambda: bool(other.ask('envoy_cluster_membership_healthy{envoy_cluster_name="order"} == 2')))


def test_calls_that_fail_by_an_injected_fault_page_until_it_is_over(stack: Stack, monitoring: Monitoring) -> None:
    with ordering(stack):
        stack.mesh("fault", "sync", "--abort", "UNAVAILABLE", "--percent", "50", "--for", "60s")
        path, alert = monitoring.hook.alert("CallsToServiceFail", "firing")
        assert (path, alert["labels"]["server_address"]) == ("/page", "sync")
        assert alert["annotations"]["summary"].endswith("of the calls to sync fail, as its callers see it")
        stack.mesh("fault", "sync", "--clear")
        monitoring.hook.alert("CallsToServiceFail", "resolved")


def test_a_process_that_is_stopped_pages_as_down(stack: Stack, monitoring: Monitoring) -> None:
    process = stack.processes()["status-1"]["pid"]
    os.kill(process, signal.SIGSTOP)
    try:
        path, alert = monitoring.hook.alert("InstanceDown", "firing")
    finally:
        os.kill(process, signal.SIGCONT)
    assert (path, alert["labels"]["job"]) == ("/page", "status")
    monitoring.hook.alert("InstanceDown", "resolved")


def test_each_line_of_a_dashboard_shows_something(stack: Stack, monitoring: Monitoring) -> None:
    quiet = ("_errors_total", "status_code!=")  # there is nothing to show where nothing goes wrong
    asked = [expr.replace("$__rate_interval", "1m") for board in BOARDS for expr in queries(board)]
    silent = {expr.replace("$job", "order") for expr in asked if not any(word in expr for word in quiet)}

    def all_speak() -> bool:
        silent.difference_update([expr for expr in silent if monitoring.ask(expr)])
        return not silent

    with ordering(stack), suppress(AssertionError):
        eventually(all_speak)
    assert silent == set()


def test_an_example_in_a_histogram_leads_to_its_trace(stack: Stack, monitoring: Monitoring) -> None:
    with ordering(stack):
        eventually(lambda: monitoring.examples("rpc_server_call_duration_seconds") != [])
        *_, trace = monitoring.examples("rpc_server_call_duration_seconds")
        eventually(lambda: '"spans"' in stack.curl_text(f"/api/traces/{trace}"))


@contextmanager
def ordering(stack: Stack) -> Iterator[None]:
    """Orders all the while: each has its customer looked up at the sync service."""
    over = threading.Event()

    def order() -> None:
        while not over.wait(0.1):
            body = {"requestId": str(uuid.uuid4()), "customerId": str(uuid.uuid4()), "lines": [
                {"sku": "A-1", "quantity": 1, "unitPrice": {"currencyCode": "EUR", "units": "1"}},
            ]}  # fmt: skip
            subprocess.run(
                ["curl", "-s", "--max-time", "5", f"localhost:{stack.gateway_port}/v1/orders", "-d", json.dumps(body)],
                check=False, capture_output=True,
            )  # fmt: skip

    thread = threading.Thread(target=order)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
