"""The built-in registry: the part of Consul's HTTP API that this mesh uses, for one machine.

It probes nothing and knows one node. KV and config entries are kept on disk; instances live in memory only,
because those who registered them do so again. For more than one machine there is Consul.
"""

from mesh.registry.dev.server import DevRegistry, DevSettings

__all__ = ["DevRegistry", "DevSettings"]
