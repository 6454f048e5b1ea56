"""docs/running-programs.md has every option and every key."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from gateway.__main__ import _parser
from mesh.cli import _mesh
from mesh.up.stack import Program, Service

PAGE = (Path(__file__).parents[2] / "docs" / "running-programs.md").read_text()


def named(start: str) -> set[str]:
    """What the first two columns of the tables of a section name."""
    section = re.split(r"^## ", PAGE.partition(f"\n## {start}")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("|")]
    return set(re.findall(r"`(?:\[stores\]` `)?(-*[a-z_-]+)", " ".join(cell for row in rows for cell in row)))


def test_every_option_of_mesh_run() -> None:
    run = _mesh.commands["run"]
    options = {name for option in run.params if isinstance(option, click.Option) for name in option.opts}
    assert options - named("Options") == set()


@pytest.mark.parametrize(("kind", "section"), [(Service, "Options"), (Program, "The rest of")])
def test_every_key_of_a_stack_file(kind: type[Service | Program], section: str) -> None:
    assert {field.name for field in fields(kind)} - named(section) == {"name"}


def test_every_option_of_the_edge() -> None:
    options = {name for action in _parser("mesh gateway")._actions for name in action.option_strings}
    assert options - named("The edge") == {"-h", "--help"}
