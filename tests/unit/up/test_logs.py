"""The end of a log, and no more of it than is of interest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.up.logs import size, tail

if TYPE_CHECKING:
    from pathlib import Path


def test_only_what_came_after_a_point_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert (size(log), tail(log, 5)) == (0, [])
    log.write_text("old\n" * 3)
    before = size(log)
    assert tail(log, 5, before) == []
    log.write_text("old\n" * 3 + "".join(f"new {number}\n" for number in range(400)))
    assert tail(log, 2, before) == ["new 398", "new 399"]
    assert tail(log, 1000, before)[0] == "new 0"
    assert tail(log, 1000)[0] == "old"
    assert tail(log, 0) == []


def test_a_log_that_took_the_place_of_a_longer_one_is_new(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("new\n")
    assert tail(log, 5, 1000) == ["new"]
