"""Where instances are announced and found: Consul, or the built-in registry that speaks the same HTTP API.

`connect` gives the client; only what it needs is imported, and only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.registry.model import MESH_TAG, Health, Instance, Registration, Registry
from mesh.registry.settings import RegistrySettings

if TYPE_CHECKING:
    from mesh.registry.consul import ConsulRegistry

__all__ = ["MESH_TAG", "Health", "Instance", "Registration", "Registry", "RegistrySettings", "connect"]


def connect(settings: RegistrySettings) -> ConsulRegistry:
    """The registry at an address, to be used as `async with`; nothing is sent before the first call."""
    from mesh.registry.consul import ConsulRegistry  # 0.25 s of imports that most processes never need

    return ConsulRegistry(settings)
