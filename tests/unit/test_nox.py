"""What contracts are compared against before they may change."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

NOXFILE = Path(__file__).parents[2] / "noxfile.py"


@pytest.fixture(scope="module")
def released() -> Callable[[], str | None]:
    """The function of the noxfile, which looks at the current folder."""
    spec = importlib.util.spec_from_file_location("noxfile", NOXFILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[], str | None] = module._released
    return found


@pytest.fixture
def commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes contracts and commits them, on main of a new repository that becomes the current folder."""
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", "--initial-branch=main")

    def write(content: str) -> str:
        put(content)
        git("add", "--all")
        git("commit", "--quiet", "--allow-empty", "--message", content)
        return git("rev-parse", "HEAD")

    return write


def put(content: str) -> None:
    """Change the contracts without a commit."""
    file = Path("gen/descriptors.binpb")
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)


def git(*words: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_without_a_change_there_is_nothing_to_compare_against(
    commit: Callable[[str], str], released: Callable[[], str | None]
) -> None:
    commit("one")
    assert released() is None
    commit("one")
    assert released() is None


def test_on_main_the_state_before_the_change_counts(
    commit: Callable[[str], str], released: Callable[[], str | None]
) -> None:
    commit("one")
    commit("two")
    assert released() == "HEAD~1"
    put("three")
    assert released() == "HEAD"


def test_on_a_branch_the_state_where_it_left_main_counts(
    commit: Callable[[str], str], released: Callable[[], str | None]
) -> None:
    fork = commit("one")
    git("checkout", "--quiet", "-b", "branch")
    commit("two")
    commit("three")
    assert released() == fork
    commit("one")
    assert released() is None


def test_a_release_counts_before_all_else(
    commit: Callable[[str], str], released: Callable[[], str | None]
) -> None:
    commit("one")
    git("tag", "v1")
    commit("two")
    commit("three")
    assert released() == "v1"
