"""Every process of a stack shows its metrics, and Prometheus's own tool finds nothing wrong with them."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

from prometheus_client.metrics_core import Metric

from mesh.announced import SERVICE
from tests.e2e.conftest import Stack
from tests.fixtures.prometheus import complaints, scraped, text, told
from tests.fixtures.shop import eventually

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
PARTS = {"console", "gateway", "launcher", "sidecar"}
SERVICES = {"order", "status", "sync"}


def test_every_process_is_told_of_and_its_metrics_are_well_formed(stack: Stack) -> None:
    parts = PARTS | (set() if stack.consul else {"registry"})
    wanted = {**dict.fromkeys(parts, 1), **dict.fromkeys(SERVICES, 2)}
    eventually(lambda: {job: len(found) for job, found in told(stack.paths.run).items()} == wanted)
    found = told(stack.paths.run)
    pages = [text(address) for addresses in found.values() for address in addresses]
    assert list(complaints(pages)) == []
    eventually(lambda: registered(stack) == {job: found[job][0] for job in parts})


def registered(stack: Stack) -> dict[str, str]:
    """Where the registry has the mesh's own processes."""
    port = stack.flags[stack.flags.index("--registry-port") + 1]
    registry = stack.environ.get("CONSUL_HTTP_ADDR", f"127.0.0.1:{port}").removeprefix("http://")
    with urllib.request.urlopen(f"http://{registry}/v1/health/service/{SERVICE}?passing", timeout=20) as answer:
        said = [one["Service"] for one in json.load(answer)]
    return {one["Meta"]["job"]: f"{one['Address']}:{one['Meta']['metrics-port']}" for one in said}


def test_the_page_of_metrics_names_each_with_its_type_and_labels(stack: Stack) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    named = {name.removesuffix("_total"): (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    shown = [family for found in told(stack.paths.run).values() for address in found for family in _ours(address)]
    assert {family.name: family.type for family in shown} == {name: kind for name, (kind, _) in named.items()}
    for family in shown:
        assert {label for sample in family.samples for label in sample.labels} - {"le"} <= named[family.name][1]


def _ours(address: str) -> list[Metric]:
    return [family for name, family in scraped(address).items() if not name.startswith(("process_", "python_"))]
