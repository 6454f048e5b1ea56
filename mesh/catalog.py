"""Services with their instances and what was said of them, as one immutable catalog. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mesh.contract import Contract
from mesh.policy import NOTHING, Entries, Fault, ServiceConfig
from mesh.registry.model import EMPTY, Instance

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,126}")


def is_name(text: str) -> bool:
    """Whether a text can name a service on the mesh; a registry may hold others."""
    return bool(_NAME.fullmatch(text))


@dataclass(frozen=True)
class Service:
    """One service as callers see it."""

    name: str
    instances: tuple[Instance, ...] = ()
    """Those in rotation, sorted by id."""

    registered: bool = False
    """Whether the registry knows an instance of whatever health."""

    contract: Contract = Contract()
    config: ServiceConfig = NOTHING
    """What the operator says of it in the registry's KV store."""

    faults: tuple[Fault, ...] = ()
    """What is to go wrong on purpose now; not kept on disk."""


_NO_ENTRIES: Final = Entries()


@dataclass(frozen=True)
class Catalog:
    """Every service that was asked for, or that a config entry leads to, and that the registry has answered."""

    services: Mapping[str, Service] = field(default_factory=lambda: EMPTY)
    entries: Entries = _NO_ENTRIES
    """The config entries in force, of all services."""

    changed_at: float = field(default=0.0, compare=False)
    """When this became so here, on the monotonic clock."""
