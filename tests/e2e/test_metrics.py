"""Every process of a stack shows its metrics, and Prometheus's own tool finds nothing wrong with them."""

from __future__ import annotations

from tests.e2e.conftest import Stack
from tests.fixtures.prometheus import complaints, text, told
from tests.fixtures.shop import eventually

PARTS = {"console", "gateway", "sidecar"}
SERVICES = {"order", "status", "sync"}


def test_every_process_is_told_of_and_its_metrics_are_well_formed(stack: Stack) -> None:
    wanted = PARTS | SERVICES | (set() if stack.consul else {"registry"})
    eventually(lambda: {job for job, found in told(stack.paths.run).items() for _ in found} == wanted)
    found = told(stack.paths.run)
    assert all(len(found[service]) == 2 for service in SERVICES)
    pages = [text(address) for addresses in found.values() for address in addresses]
    assert list(complaints(pages)) == []
