"""Which hosts and origins are the console's own."""

from __future__ import annotations

import pytest

from console.access import is_ours, is_same_origin


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "LOCALHOST:8080",
        "mesh.localhost:8080",
        "localhost.:8080",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]:8080",
        "10.1.2.3:8080",
        "console.example:8080",
    ],
)
def test_own_hosts(host: str) -> None:
    assert is_ours(host, ("console.example",))


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8080",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "notlocalhost",
        "console.example.evil",
        "[::1",
        "127.0.0.1@evil.example",
        "evil.example#localhost",
        "2130706433",
        "0x7f.1",
    ],
)
def test_other_hosts(host: str) -> None:
    assert not is_ours(host, ("console.example",))


@pytest.mark.parametrize(
    ("origin", "is_same"),
    [
        ("http://localhost:8080", True),
        ("https://LOCALHOST:8080", True),
        ("http://localhost", False),
        ("null", False),
        ("http://localhost:80801", False),
        ("http://evil.example", False),
        ("ftp://localhost:8080", False),
        ("http://[", False),
    ],
)
def test_origins(origin: str, is_same: bool) -> None:
    assert is_same_origin(origin, "localhost:8080") is is_same
