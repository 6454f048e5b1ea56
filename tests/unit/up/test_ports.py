"""Ports: free ones are given out once, busy ones are named with their owner."""

from __future__ import annotations

import os
import socket

import pytest

from mesh import ports
from mesh.errors import Error


def test_no_port_is_given_out_twice() -> None:
    given = [ports.free_port() for _ in range(50)]
    assert len(set(given)) == len(given)


def test_ports_are_given_out_again_when_all_have_been(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_LAST", ports._FIRST + 8)
    given = [ports.free_port() for _ in range(40)]
    assert set(given) <= set(range(ports._FIRST, ports._LAST))


def test_no_free_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_LAST", ports._FIRST)
    with pytest.raises(Error, match="is free"):
        ports.free_port()


@pytest.mark.parametrize("only_ipv6", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "::1"])
def test_a_listener_is_found_with_its_owner(host: str, only_ipv6: bool) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, 0))
        listener.listen()
        port = listener.getsockname()[1]
        told = ports.problem(port, "gateway", "--gateway-port")
        assert told is not None
        assert told.startswith(f"port {port} (gateway) is busy: ")
        assert f"(pid {os.getpid()}); choose another with --gateway-port PORT" in told
    assert ports.problem(port, "gateway", "--gateway-port") is None
    assert ports.owner(port) is None
