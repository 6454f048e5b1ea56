"""The pages' pure modules, in Node.js: the cases are in modules/, in the language that they are about."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fixtures.node import node_environ

CASES = sorted((Path(__file__).parent / "modules").glob("*.mjs"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_module(case: Path) -> None:
    done = subprocess.run(
        ["node", "--test", str(case)], env=node_environ(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
