"""How a detached launcher tells that all is ready."""

from __future__ import annotations

import os

from mesh.up.background import READY, Notice


def test_a_notice_is_given_once_and_never_to_whoever_has_the_number_next() -> None:
    reading, writing = os.pipe()
    notice = Notice(writing)
    assert notice.is_wanted
    notice.give(READY)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == READY
    other_reading, other = os.pipe()
    os.dup2(other, writing)
    notice.give("an error")
    os.write(other, b"x")
    for descriptor in {other, writing}:
        os.close(descriptor)
    with os.fdopen(other_reading) as pipe:
        assert pipe.read() == "x"


def test_a_launcher_in_the_foreground_tells_nobody() -> None:
    notice = Notice(None)
    assert not notice.is_wanted
    notice.give(READY)
