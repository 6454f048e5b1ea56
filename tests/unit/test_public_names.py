"""The public names of `mesh`: few, all there, none by accident."""

import subprocess
import sys

import pytest

import mesh

NAMES = [
    "Channel", "Code", "Error", "InvalidConfig", "Refused", "Server", "Serving", "Settings", "Variables",
    "channel", "check", "deadline", "from_rpc", "server",
]


def test_the_public_names() -> None:
    assert mesh.__all__ == NAMES == dir(mesh)
    assert all(getattr(mesh, name) is not None for name in NAMES)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mesh.nothing  # noqa: B018


def test_importing_it_loads_no_grpc() -> None:
    script = "import sys, mesh; sys.exit('grpc' in sys.modules or 'opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_no_module_hides_a_function() -> None:
    script = "import mesh.client, mesh.serving, mesh; assert callable(mesh.server) and callable(mesh.channel)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
