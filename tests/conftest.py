"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
STACKS = ("e2e", "integration/up")
"""Folders whose tests start whole stacks: one worker takes them all, and first, as they take half of the time."""

pytest_plugins = [
    "tests.fixtures.browser",
    "tests.fixtures.consul",
    "tests.fixtures.golden",
    "tests.fixtures.node",
    "tests.fixtures.shop",
    "tests.fixtures.spans",
    "tests.fixtures.stores",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of one file on one worker, and those with stacks on one as well."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: _group(item) != "stacks")


def _group(item: pytest.Item) -> str:
    file = item.path.relative_to(HERE).as_posix()
    return "stacks" if file.startswith(STACKS) else file
