"""What all tests share."""

from __future__ import annotations

pytest_plugins = [
    "tests.fixtures.browser",
    "tests.fixtures.consul",
    "tests.fixtures.golden",
    "tests.fixtures.node",
    "tests.fixtures.shop",
    "tests.fixtures.spans",
    "tests.fixtures.stores",
]
