"""The commands in docs/policy.md, taken from it and run: each registry takes them, and they compile."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from mesh.policy import KINDS, NOTHING, PREFIX, Entries, compiled, parse_entry, parse_service_config
from mesh.registry import Registry
from tests.fixtures.consul import RegistryProcess
from tests.unit.gateway.compiled import reference_services

DOC = Path(__file__).parents[2] / "docs" / "policy.md"
BLOCKS = re.findall(r"```sh\n(.*?)```", DOC.read_text(), re.DOTALL)


async def test_the_commands_of_the_page_work(registry: Registry, registry_process: RegistryProcess) -> None:
    environ = {**os.environ, "CONSUL_HTTP_ADDR": registry_process.address}
    contract = reference_services().accepted["order"]
    for command in BLOCKS:
        subprocess.run(["sh", "-ec", command], env=environ, check=True, capture_output=True, timeout=20)
        text = await registry.get(PREFIX + "order")
        config = parse_service_config(text.decode(), PREFIX + "order") if text else NOTHING
        compiled("order", contract, config, await held(registry))
    assert (await held(registry)).held == {}
    assert len(BLOCKS) > 5


async def held(registry: Registry) -> Entries:
    """The config entries of `order`."""
    found = [
        parse_entry(raw) for kind in KINDS for raw in await anext(registry.watch_config_entries(kind))
        if raw["Name"] == "order"
    ]  # fmt: skip
    return Entries({(entry.raw["Kind"], entry.raw["Name"]): entry for entry in found})
