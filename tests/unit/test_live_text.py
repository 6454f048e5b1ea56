"""What `mesh top` and `mesh tap` print."""

from __future__ import annotations

import pytest

from mesh import tap, top

FIGURES = {"error_rate": 0.0, "p50": 0.85, "p90": 12.345, "p99": None}
STATE = {
    "at": 1_700_000_000_000,
    "window_seconds": 63,
    "methods": [{"service": "order", "method": "shop.v1.Shop/Buy", "rate": 12.5, **FIGURES}],
    "edges": [
        {"from": "gateway", "to": "order", "rate": 0.05, **FIGURES, "error_rate": 0.25},
        {"from": "order", "to": "evil\x1b[2J", "rate": 1.0, **FIGURES},
    ],
}
CALL = {
    "at": 1_700_000_000_123.4, "caller": "", "service": "order", "method": "shop.v1.Shop/Buy", "instance": "order-1",
    "status": "OK", "failed": False, "duration": 1234.5, "attempts": 2, "trace_id": "ab" * 16,
}  # fmt: skip


def test_top() -> None:
    head, *lines = top.screen(STATE)
    assert head.endswith("calls of the last 63 s")
    assert lines == [
        "",
        "METHOD      CALLS  ERRORS     P50      P90  P99",
        "order/Buy  12.5/s     0 %  850 us  12.3 ms    -",
        "",
        "CALLER > CALLEE   CALLS  ERRORS     P50      P90  P99",
        "gateway > order   3/min    25 %  850 us  12.3 ms    -",
        "order > evil?[2J    1/s     0 %  850 us  12.3 ms    -",
    ]
    assert [line for line in top.screen(STATE, colour=True) if "\x1b[31m" in line] == [f"\x1b[31m{lines[5]}\x1b[0m"]
    assert top.screen({**STATE, "methods": [], "edges": []})[1:] == ["", "No calls."]


def test_as_much_as_a_terminal_has_room_for() -> None:
    assert top.fitted(["long", "\x1b[31mlonger\x1b[0m"], 3, 9) == ["lon", "\x1b[31mlon\x1b[0m"]
    assert top.fitted(["1", "2", "3", "4"], 9, 3) == ["1", "2", "... 2 more lines"]


def test_a_call_in_a_line() -> None:
    line = tap.line(CALL)
    assert line[8:].split() == [".123", "-", "order/Buy", "order-1", "OK", "1.23", "s", "2", "ab" * 16]
    assert tap.header().index("METHOD") == line.index("order/Buy")
    failed = {**CALL, "failed": True, "caller": "evil\r\n"}
    assert "evil??" in tap.line(failed)
    assert tap.line(failed, colour=True) == f"\x1b[31m{tap.line(failed)}\x1b[0m"


@pytest.mark.parametrize(
    ("errors", "least", "asked", "problems"),
    [
        (False, None, {"topic": "tap", "service": "order"}, 0),
        (True, "1.5s", {"topic": "tap", "service": "order", "error": "true", "minDuration": "1500.000ms"}, 0),
        (False, "soon", None, 1),
    ],
)
def test_what_the_console_is_asked(
    errors: bool, least: str | None, asked: dict[str, str] | None, problems: int
) -> None:
    question, found = tap.question(("order", ""), errors=errors, min_duration=least)
    assert len(found) == problems
    assert asked in (None, question)
