"""What all tests share."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped] # ships no types

STACKS = ("e2e", "integration/up")
"""Folders whose tests start whole stacks: one worker takes them all, and first, as they take half of the time."""

pytest_plugins = [
    "tests.fixtures.browser",
    "tests.fixtures.consul",
    "tests.fixtures.edge",
    "tests.fixtures.golden",
    "tests.fixtures.node",
    "tests.fixtures.operator",
    "tests.fixtures.shop",
    "tests.fixtures.spans",
    "tests.fixtures.stores",
    "tests.fixtures.callers",  # after those that it imports
]


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Tests of one file go to one worker, as they share what they start; so do all those with stacks."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """By group; not by xdist's own marks, which pytest 9.2 does not let it read."""
    return _ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those with stacks first."""
    items.sort(key=lambda item: _group(item.nodeid) != "stacks")


def _group(nodeid: str) -> str:
    file = nodeid.partition("::")[0].removeprefix("tests/")
    return "stacks" if file.startswith(STACKS) else file
