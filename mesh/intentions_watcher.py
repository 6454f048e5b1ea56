"""The intentions of all services, followed in the registry; the last ones hold while that is away, on disk too."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from mesh.catalog_watcher import PATIENCE_SECONDS
from mesh.errors import Error
from mesh.intentions import Intentions
from mesh.latest import Latest
from mesh.read_intentions import read
from mesh.recovery import sleep
from mesh.registry.model import Intended, Registry
from mesh.scope import Scope

_log = logging.getLogger(__name__)


class IntentionsWatcher:
    """Follows them from `start` on."""

    def __init__(
        self, registry: Registry, path: Path | None = None, *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """`path` is where to keep a copy, which holds when the registry does not answer so soon; None for nowhere."""
        self._registry, self._path, self._patience_seconds = registry, path, patience_seconds
        self.current: Latest[Intentions | None] = Latest(None)
        """None as long as they have never been read."""

        self._settled = asyncio.Event()
        self.problem = ""
        """Why the newest are not in force."""

        self.is_kept = False
        """Whether they are followed, as there is somebody who can keep to them: only with mutual TLS there is."""

    def start(self, scope: Scope) -> None:
        """Follow for as long as the scope is open."""
        self.is_kept = True
        scope.start(self._follow(), name="intentions")
        scope.start(self._fall_back(), name="last known intentions")

    async def to(self, service: str) -> AsyncIterator[Intentions]:
        """Those about the calls to one service, as soon as they are known and at each change."""
        told: Intentions | None = None
        async for current in self.current.changes():
            if current and (found := current.to(service)) != told:
                told = found
                yield found

    async def ready(self) -> Intentions | None:
        """As soon as they are known; None when neither the registry nor the copy tells them soon."""
        await self._settled.wait()
        return self.current.value

    async def known(self) -> Intentions | None:
        """Those that are kept to; where nobody does, those in the registry."""
        if not self.is_kept:
            with suppress(Error, ValueError):
                return read(await self._registry.intended())
        return self.current.value

    async def _follow(self) -> None:
        async for intended in self._registry.watch_intended():
            try:
                self.current.set(read(intended))
            except ValueError as error:
                self.problem = f"the newest intentions are not in force, and the last good ones hold: {error}"
                _log.error("%s", self.problem)
                continue
            self.problem = ""
            self._settled.set()
            if self._path:
                await asyncio.to_thread(_save, self._path, intended)

    async def _fall_back(self) -> None:
        """Take those that were last known before this process, unless the registry answers soon."""
        await sleep(self._patience_seconds)
        known = await asyncio.to_thread(_load, self._path) if self._path and self.current.value is None else None
        if known and self.current.value is None:
            _log.warning("the registry does not answer; intentions hold as last known")
            self.current.set(known)
        self._settled.set()


def _save(path: Path, intended: Intended) -> None:
    content = {"default_allow": intended.default_allow, "intentions": [dict(one) for one in intended.intentions]}
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        _log.warning("the intentions cannot be saved: %s", error)


def _load(path: Path) -> Intentions | None:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return read(Intended(intentions=tuple(held["intentions"]), default_allow=held["default_allow"] is True))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("the copy of the intentions in %s cannot be used: %s", path, error)
        return None
