"""Meshwright: a gRPC service mesh that needs nothing but Consul.

What an application uses; each name is loaded when it is first asked for, so that `import mesh` costs nothing.

    async with mesh.server() as server: ...
    async with mesh.channel("order") as channel: ...
    raise mesh.Error(mesh.Code.NOT_FOUND, "order ... does not exist", reason="ORDER_NOT_FOUND")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh import deadline
    from mesh.client import Channel, channel
    from mesh.config import Settings, Variables
    from mesh.errors import Code, Error, InvalidConfig, Refused
    from mesh.health_service import Serving
    from mesh.serving import Server, server
    from mesh.status import from_rpc
    from mesh.validation import check

__all__ = [
    "Channel",
    "Code",
    "Error",
    "InvalidConfig",
    "Refused",
    "Server",
    "Serving",
    "Settings",
    "Variables",
    "channel",
    "check",
    "deadline",
    "from_rpc",
    "server",
]

_HOMES = {
    "Channel": "mesh.client",
    "Code": "mesh.errors",
    "Error": "mesh.errors",
    "InvalidConfig": "mesh.errors",
    "Refused": "mesh.errors",
    "Server": "mesh.serving",
    "Serving": "mesh.health_service",
    "Settings": "mesh.config",
    "Variables": "mesh.config",
    "channel": "mesh.client",
    "check": "mesh.validation",
    "from_rpc": "mesh.status",
    "server": "mesh.serving",
}


def __getattr__(name: str) -> Any:
    if name == "deadline":
        return import_module("mesh.deadline")
    if name not in _HOMES:
        raise AttributeError(f"module 'mesh' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
