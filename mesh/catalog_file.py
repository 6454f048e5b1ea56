"""The catalog on disk, for a sidecar that starts while the registry is away."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mesh.catalog import Catalog, Service
from mesh.catalog_watcher import CatalogWatcher
from mesh.contract import Contract
from mesh.errors import Error
from mesh.policy import NOTHING, PREFIX, Entries, Said, ServiceConfig, good, parse_entry, parse_service_config
from mesh.policy.model import CONTRACT
from mesh.policy_in_force import PoliciesInForce
from mesh.recovery import sleep
from mesh.registry.model import EMPTY, Health, Instance

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LastKnown:
    """What held before this process."""

    catalog: Catalog = Catalog()
    said: Mapping[str, Said] = field(default_factory=lambda: EMPTY)
    """What each service's policy was made of: not all that is in the catalog need have been good."""


def save(path: Path, known: LastKnown) -> None:
    """Replace the file as a whole. Raises OSError when it cannot be written."""
    services, said = known.catalog.services, known.said
    content = {
        "services": {name: _to_json(services[name]) | _said_to_json(said.get(name)) for name in services},
        "entries": _entries_to_json(known.catalog.entries),
    }
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
    draft.replace(path)


def load(path: Path) -> LastKnown:
    """What was saved; nothing, and a line in the log, when there is nothing that can be read."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        services = {name: _from_json(name, value) for name, value in held["services"].items()}
        catalog = Catalog(services, _entries_from_json(held.get("entries", ())))
        before = {name: _said_from_json(name, value.get("good", {})) for name, value in held["services"].items()}
        return LastKnown(catalog, {name: _good(services[name], catalog, said) for name, said in before.items()})
    except FileNotFoundError:
        return LastKnown()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, Error) as error:
        _log.warning("the copy of the catalog in %s cannot be used: %s", path, error)
        return LastKnown()


async def keep(path: Path, catalog: CatalogWatcher, last_known: Catalog, policies: PoliciesInForce) -> None:
    """Save what is known and what holds at each change, at most once a second, until cancelled."""
    async for current in catalog.changes():
        services = {**last_known.services, **current.services}
        worth = replace(current, services={n: service for n, service in services.items() if service.registered})
        good_ones = {name: said for name in worth.services if (said := policies.said(name))}
        try:
            await asyncio.to_thread(save, path, LastKnown(worth, good_ones))
        except OSError as error:
            _log.warning("the catalog cannot be saved: %s", error)
        await sleep(1)


def _good(service: Service, catalog: Catalog, before: Said) -> Said:
    """What is good of a service in the catalog, which may be newer than what its policy was last made of."""
    return good(service.name, service.contract, service.config, catalog.entries, before)[0]


def _to_json(service: Service) -> dict[str, Any]:
    return {
        "registered": service.registered,
        "instances": [_instance_to_json(instance) for instance in service.instances],
        "config": service.config.text,
        "contract": base64.b64encode(service.contract.serialize()).decode(),
    }


def _said_to_json(said: Said | None) -> dict[str, Any]:
    """Beside the service itself, as what is published of it now may be bad."""
    if said is None:
        return {}
    made = {"own": said.own.text, "config": said.config.text, "entries": _entries_to_json(said.entries)}
    return {"good": {key: value for key, value in made.items() if value}}


def _said_from_json(name: str, held: dict[str, Any]) -> Said:
    return Said(
        own=_config(held.get("own", ""), CONTRACT),
        config=_config(held.get("config", ""), PREFIX + name),
        entries=_entries_from_json(held.get("entries", ())),
    )


def _config(text: str, source: str) -> ServiceConfig:
    return parse_service_config(text, source) if text else NOTHING


def _entries_to_json(entries: Entries) -> list[dict[str, Any]]:
    return [dict(entry.raw) for entry in entries.held.values()]


def _entries_from_json(held: Iterable[dict[str, Any]]) -> Entries:
    return Entries({(raw["Kind"], raw["Name"]): parse_entry(raw) for raw in held})


def _instance_to_json(instance: Instance) -> dict[str, Any]:
    return {**vars(instance), "meta": dict(instance.meta), "tags": list(instance.tags)}


def _from_json(name: str, held: dict[str, Any]) -> Service:
    instances = tuple(_instance_from_json(value) for value in held["instances"])
    contract = Contract.parse(base64.b64decode(held["contract"]))
    return Service(name, instances, held["registered"], contract, _config(held.get("config", ""), PREFIX + name))


def _instance_from_json(held: dict[str, Any]) -> Instance:
    return Instance(**{**held, "tags": tuple(held["tags"]), "health": Health(held["health"])})
