"""Which instances Envoy has given up for want of a connection, by what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.reach import Unreachable, ask, unreachable


def told(host: str = "10.0.0.7", *, ejected: bool = True, failures: int = 2, connections: int = 0) -> dict[str, Any]:
    """An answer about one instance; what is 0 or false is not in it."""
    stats: list[dict[str, Any]] = [
        {"name": "cx_connect_fail", "value": str(failures)} if failures else {"name": "cx_connect_fail"},
        {"name": "cx_active", "type": "GAUGE", **({"value": str(connections)} if connections else {})},
    ]
    health = {"eds_health_status": "HEALTHY", **({"failed_outlier_check": True} if ejected else {})}
    address = {"socket_address": {"address": host, "port_value": 80}}
    return {"cluster_statuses": [
        {"name": "edge/control", "host_statuses": [{"address": {"pipe": {"path": "/x"}}, "stats": [
            {"name": "cx_connect_fail", "value": "9"}, {"name": "cx_active"}], "health_status": health}]},
        {"name": "order", "host_statuses": [{"address": address, "stats": stats, "health_status": health}]},
        {"name": "sync"},
    ]}  # fmt: skip


def test_one_that_is_ejected_without_a_connection_is_out_of_reach() -> None:
    assert [*unreachable(told())] == [Unreachable("order", "10.0.0.7", 80, 2)]
    assert [one.address for one in unreachable(told("fd00::7"))] == ["[fd00::7]:80"]


@pytest.mark.parametrize(
    "well",
    [
        {"ejected": False},  # it is about to be tried again, or failed once long ago
        {"failures": 0},  # it is ejected for its answers
        {"connections": 1},
    ],
)
def test_others_are_not(well: dict[str, Any]) -> None:
    assert [*unreachable(told(**well))] == []


def test_what_is_said_of_it_names_the_way_and_how_to_look_at_it() -> None:
    found = Unreachable("order", "10.0.0.7", 80, 1).finding()
    assert found.text.startswith("Envoy cannot connect to order at 10.0.0.7:80, ")
    assert "1 attempt failed" in found.text
    assert found.remedy.startswith("nc -vz -w 5 10.0.0.7 80  #")


def test_without_an_envoy_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert ask(tmp_path / "nobody") == []
