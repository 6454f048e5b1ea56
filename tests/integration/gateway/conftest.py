"""One edge for the tests of this folder, in front of two instances of the probe."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.fixtures.consul import RegistryProcess
from tests.integration.gateway.harness import Edge, eventually
from tests.integration.gateway.probe import SERVICE, contract

CONFIG = json.dumps({
    "methodConfig": [
        {
            "name": [{"service": SERVICE, "method": method} for method in ("GetThing", "ListThings")],
            "timeout": "1.5s",
            "retryPolicy": {
                "maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
})  # fmt: skip


@pytest.fixture(scope="module")
def edge(dev_registry: RegistryProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """A running edge; the service `probe` has the instances probe-1 and probe-2."""
    made = Edge(tmp_path_factory.mktemp("edge"), dev_registry.address)
    try:
        published = contract(CONFIG)
        for name in ("probe-1", "probe-2"):
            _, port = made.probe(name)
            made.join("probe", name, port, published)
        made.start()
        eventually(lambda: made.get("/probe/things/a").status == 200, "the probe answers", made.logs)
        yield made
    finally:
        made.stop()
