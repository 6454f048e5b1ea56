"""The JSON that Consul answers with, from the built-in registry's tables (pure)."""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from mesh.registry.dev.kv import Entry
from mesh.registry.dev.state import PASSING, Check, Service

DATACENTER = "dc1"
API_VERSION = "1.8.7"
"""The Consul whose API this is."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """The one node: this machine."""

    name: str
    address: str
    port: int
    index: int

    @property
    def id(self) -> str:
        """The same for the same name."""
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, self.name))

    @property
    def leader(self) -> str:
        """Address of the raft leader, as Consul would say it."""
        return f"{self.address}:{self.port}"


def node(here: Node) -> dict[str, Any]:
    """`Node` of the catalog."""
    return {
        "ID": here.id,
        "Node": here.name,
        "Address": here.address,
        "Datacenter": DATACENTER,
        "TaggedAddresses": dict.fromkeys(("lan", "lan_ipv4", "wan", "wan_ipv4"), here.address),
        "Meta": {"consul-network-segment": ""},
        "CreateIndex": here.index,
        "ModifyIndex": here.index,
    }


def _tagged(service: Service) -> dict[str, Any]:
    try:
        version = ip_address(service.address).version
    except ValueError:
        return {}
    address = {"Address": service.address, "Port": service.port}
    return {f"{net}_ipv{version}": address for net in ("lan", "wan")}


def agent_service(service: Service) -> dict[str, Any]:
    """An element of `/v1/agent/services`."""
    shape = {
        "ID": service.id,
        "Service": service.name,
        "Tags": list(service.tags),
        "Meta": dict(service.meta),
        "Port": service.port,
        "Address": service.address,
        "TaggedAddresses": _tagged(service),
        "Weights": {"Passing": service.passing_weight, "Warning": service.warning_weight},
        "EnableTagOverride": False,
    }
    if not shape["TaggedAddresses"]:
        del shape["TaggedAddresses"]
    return shape


def health_service(service: Service) -> dict[str, Any]:
    """`Service` in an element of `/v1/health/service/<name>`."""
    return {
        **agent_service(service),
        "Meta": dict(service.meta) or None,
        "Proxy": {"MeshGateway": {}, "Expose": {}},
        "Connect": {},
        "CreateIndex": service.create_index,
        "ModifyIndex": service.modify_index,
    }


def catalog_service(service: Service, here: Node) -> dict[str, Any]:
    """An element of `/v1/catalog/service/<name>`."""
    shape = node(here)
    shape["NodeMeta"] = shape.pop("Meta")
    weights = {"Passing": service.passing_weight, "Warning": service.warning_weight}
    own = {
        "ServiceKind": "",
        "ServiceID": service.id,
        "ServiceName": service.name,
        "ServiceTags": list(service.tags),
        "ServiceAddress": service.address,
        "ServiceTaggedAddresses": _tagged(service),
        "ServiceWeights": weights,
        "ServiceMeta": dict(service.meta),
        "ServicePort": service.port,
        "ServiceEnableTagOverride": False,
        "ServiceProxy": {"MeshGateway": {}, "Expose": {}},
        "ServiceConnect": {},
    }
    return shape | own | {"CreateIndex": service.create_index, "ModifyIndex": service.modify_index}


def check(found: Check, here: Node, *, local: bool = False) -> dict[str, Any]:
    """A check as the catalog shows it, or as the agent does (`local`)."""
    return {
        "Node": here.name,
        "CheckID": found.id,
        "Name": found.name,
        "Status": found.status,
        "Notes": found.notes,
        "Output": found.output if local else found.catalog_output,
        "ServiceID": found.service_id,
        "ServiceName": found.service,
        "ServiceTags": list(found.tags),
        "Type": "ttl",
        "Definition": {},
        "CreateIndex": 0 if local else found.create_index,
        "ModifyIndex": 0 if local else found.modify_index,
    }


def node_check(here: Node) -> dict[str, Any]:
    """The check of the machine itself, which always passes."""
    return {
        "Node": here.name,
        "CheckID": "serfHealth",
        "Name": "Serf Health Status",
        "Status": PASSING,
        "Notes": "",
        "Output": "Agent alive and reachable",
        "ServiceID": "",
        "ServiceName": "",
        "ServiceTags": [],
        "Type": "",
        "Definition": {},
        "CreateIndex": here.index,
        "ModifyIndex": here.index,
    }


def value(entry: Entry) -> dict[str, Any]:
    """An element of `/v1/kv/<key>`."""
    return {
        "LockIndex": 0,
        "Key": entry.key,
        "Flags": entry.flags,
        "Value": base64.b64encode(entry.value).decode() if entry.value else None,
        "CreateIndex": entry.create_index,
        "ModifyIndex": entry.modify_index,
    }


def member(here: Node) -> dict[str, Any]:
    """An element of `/v1/agent/members`."""
    tags = {"build": f"{API_VERSION}:meshwright", "dc": DATACENTER, "id": here.id, "port": str(here.port)}
    return {
        "Name": here.name,
        "Addr": here.address,
        "Port": here.port,
        "Tags": {"role": "consul", "segment": "", "vsn": "2", "vsn_min": "2", "vsn_max": "3", **tags},
        "Status": 1,
        "ProtocolMin": 1,
        "ProtocolMax": 5,
        "ProtocolCur": 2,
        "DelegateMin": 2,
        "DelegateMax": 5,
        "DelegateCur": 4,
    }


def raft(here: Node) -> dict[str, Any]:
    """`/v1/operator/raft/configuration`."""
    server = {"ID": here.id, "Node": here.name, "Address": here.leader, "Leader": True, "Voter": True}
    return {"Servers": [{**server, "ProtocolVersion": "3"}], "Index": 0}


def agent_self(here: Node, *, services: int, checks: int) -> dict[str, Any]:
    """`/v1/agent/self`."""
    config = {"Datacenter": DATACENTER, "NodeName": here.name, "NodeID": here.id, "Revision": "", "Server": True}
    return {
        "Config": {**config, "Version": API_VERSION},
        "DebugConfig": {"DevMode": True, "MeshwrightDevRegistry": True},
        "Coord": {"Vec": [0] * 8, "Error": 1.5, "Adjustment": 0, "Height": 0.00001},
        "Member": member(here),
        "Stats": _stats(here, services, checks),
        "Meta": {"consul-network-segment": ""},
    }


def _stats(here: Node, services: int, checks: int) -> dict[str, dict[str, str]]:
    """What `consul info` prints."""
    count = str(checks)
    return {
        "agent": {"check_monitors": "0", "check_ttls": count, "checks": count, "services": str(services)},
        "build": {"prerelease": "meshwright", "revision": "", "version": API_VERSION},
        "consul": {
            "acl": "disabled", "bootstrap": "false", "known_datacenters": "1", "leader": "true",
            "leader_addr": here.leader, "server": "true",
        },
        "raft": {"num_peers": "0", "state": "Leader"},
        "serf_lan": {"failed": "0", "left": "0", "members": "1"},
    }  # fmt: skip
