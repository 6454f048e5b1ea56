"""The catalog on disk, for a sidecar that starts while the registry is away."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from mesh.catalog import Catalog, CatalogWatcher, Service
from mesh.contract import Contract
from mesh.errors import Error
from mesh.policy import NOTHING, PREFIX, Entries, parse_entry, parse_service_config
from mesh.recovery import sleep
from mesh.registry.model import Health, Instance

_log = logging.getLogger(__name__)


def save(path: Path, catalog: Catalog) -> None:
    """Replace the file as a whole. Raises OSError when it cannot be written."""
    services = {name: _to_json(service) for name, service in catalog.services.items()}
    entries = [dict(entry.raw) for entry in catalog.entries.held.values()]
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps({"services": services, "entries": entries}, indent=1), encoding="utf-8")
    draft.replace(path)


def load(path: Path) -> Catalog:
    """What was saved; an empty catalog, and a line in the log, when there is nothing that can be read."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        services = {name: _from_json(name, value) for name, value in held["services"].items()}
        entries = {(raw["Kind"], raw["Name"]): parse_entry(raw) for raw in held.get("entries", ())}
        return Catalog(services, Entries(entries))
    except FileNotFoundError:
        return Catalog()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, Error) as error:
        _log.warning("the copy of the catalog in %s cannot be used: %s", path, error)
        return Catalog()


async def keep(path: Path, catalog: CatalogWatcher, last_known: Catalog) -> None:
    """Save what is known at each change, at most once a second, until cancelled."""
    async for current in catalog.changes():
        services = {**last_known.services, **current.services}
        worth = replace(current, services={n: service for n, service in services.items() if service.registered})
        try:
            await asyncio.to_thread(save, path, worth)
        except OSError as error:
            _log.warning("the catalog cannot be saved: %s", error)
        await sleep(1)


def _to_json(service: Service) -> dict[str, Any]:
    return {
        "registered": service.registered,
        "instances": [_instance_to_json(instance) for instance in service.instances],
        "config": service.config.text,
        "contract": base64.b64encode(service.contract.serialize()).decode(),
    }


def _instance_to_json(instance: Instance) -> dict[str, Any]:
    return {**vars(instance), "meta": dict(instance.meta), "tags": list(instance.tags)}


def _from_json(name: str, held: dict[str, Any]) -> Service:
    instances = tuple(_instance_from_json(value) for value in held["instances"])
    contract = Contract.parse(base64.b64decode(held["contract"]))
    text = held.get("config", "")
    config = parse_service_config(text, PREFIX + name) if text else NOTHING
    return Service(name, instances, held["registered"], contract, config)


def _instance_from_json(held: dict[str, Any]) -> Instance:
    return Instance(**{**held, "tags": tuple(held["tags"]), "health": Health(held["health"])})
