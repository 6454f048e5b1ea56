"""What a statement is called in traces."""

from __future__ import annotations

import pytest

from services.statements import LONGEST, summary


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT 1", "SELECT"),
        ("SELECT * FROM orders.orders WHERE id = $1", "SELECT orders.orders"),
        ("select a from x join only y on true where b is distinct from c", "SELECT x y"),
        ("INSERT INTO t(a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET a = $1", "INSERT t"),
        ("UPDATE t SET a = 'FROM secrets' WHERE b = $1", "UPDATE t"),
        ("DELETE FROM t USING u", "DELETE t"),
        ("SELECT id FROM t ORDER BY id FOR UPDATE SKIP LOCKED", "SELECT t"),
        ("SELECT * FROM unnest($1::text[]) AS made", "SELECT"),
        ("SELECT EXTRACT(epoch FROM a) FROM t", "SELECT t"),
        ("WITH due AS (SELECT id FROM t FOR UPDATE)\n UPDATE t SET a = 1 FROM due", "SELECT t UPDATE t"),
        ("WITH new AS MATERIALIZED (INSERT INTO a SELECT $1) SELECT * FROM new", "INSERT a SELECT SELECT"),
        ("BEGIN;", "BEGIN"),
        ("LISTEN orders", "LISTEN"),
        ("", ""),
    ],
)
def test_a_summary_has_what_is_done_to_which_tables(query: str, expected: str) -> None:
    assert summary(query) == expected


def test_a_summary_is_short_and_ends_with_a_word() -> None:
    made = summary("SELECT 1 " + " UNION SELECT 2 ".join(f"FROM table_{number}" for number in range(50)))
    assert len(made) <= LONGEST
    assert made.rpartition("_")[2].isdecimal() or made.endswith("SELECT")
