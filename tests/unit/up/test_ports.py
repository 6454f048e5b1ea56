"""Ports: free ones are given out once, busy ones are named with their owner."""

from __future__ import annotations

import os
import socket

import pytest

from mesh import ports


def test_no_port_is_given_out_twice() -> None:
    given = [ports.free_port() for _ in range(50)]
    assert len(set(given)) == len(given)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")])
def test_a_listener_is_found_with_its_owner(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as listener:
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
