"""The options of `mesh run`, checked before anything starts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.config import is_secured
from mesh.errors import InvalidConfig
from mesh.paths import Paths
from mesh.ports import is_free, owner
from mesh.registry import RegistrySettings
from mesh.registry.model import is_ip
from mesh.run import Instance, Membership, host

_SERVICE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class MemberSettings:
    """What `mesh run` was told."""

    instance: Instance
    registry: RegistrySettings
    """Where the registry is, for the sidecar that this process may be."""

    is_secured: bool
    """Whether that sidecar has certificates, which is said of a host rather than of one program."""


def settings(
    options: Mapping[str, Any], command: tuple[str, ...], paths: Paths, environ: Mapping[str, str]
) -> MemberSettings:
    """Check what was given on the command line. Raises `InvalidConfig` with every problem.

    What a running stack provides completes the environment.
    """
    from mesh.membership import faults

    problems: list[str] = []
    environ = {**_provided(paths), **environ}
    secured = _is_secured(options["mtls"], environ, problems)
    membership = Membership(
        service=_service(options["service"], problems),
        address=_address(options["address"], problems),
        port=options["port"] or 0,
        zone=options["zone"],
        tags=tuple(options["tags"]),
        meta=_meta(options["meta"], problems),
        protocol=options["protocol"],
        http_prefixes=options["http_prefixes"],
        descriptors=_read(options["descriptors"], "--descriptors", problems),
        service_config=_read(options["service_config"], "--service-config", problems).decode(errors="replace"),
        plaintext=not secured or options["mtls"] is False or (options["protocol"] == "http" and not options["mtls"]),
    )
    problems.extend(f"{_flag(field, options)}: {fault}" for field, fault in faults(membership))
    problems.extend(_busy(membership.port, host(membership, environ)))
    registry = _registry(environ, problems)
    if problems:
        raise InvalidConfig.of(problems)
    instance = Instance(membership=membership, argv=command, environ=environ, paths=paths)
    return MemberSettings(instance=instance, registry=registry, is_secured=secured)


def registry_of(paths: Paths, environ: Mapping[str, str]) -> RegistrySettings:
    """The registry that the environment names, else that of the running stack. Raises `InvalidConfig`."""
    return RegistrySettings.from_env({**_provided(paths), **environ})


def _address(text: str, problems: list[str]) -> str:
    if not is_ip(text):
        problems.append(f"--address {text!r} must be an IP address: gRPC takes no host names from xDS")
    return text


def _provided(paths: Paths) -> dict[str, str]:
    with suppress(OSError, ValueError):
        if not paths.are_in_use():
            return {}
        found = json.loads(paths.environ.read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in found.items()}
    return {}


def _is_secured(chosen: bool | None, environ: Mapping[str, str], problems: list[str]) -> bool:
    """Whether this host speaks TLS; one that does may have a program that does not."""
    try:
        return bool(chosen) or is_secured(environ)
    except InvalidConfig as error:
        problems.extend(error.message.splitlines())
        return True


def _registry(environ: Mapping[str, str], problems: list[str]) -> RegistrySettings:
    try:
        return RegistrySettings.from_env(environ)
    except InvalidConfig as error:
        problems.extend(error.message.splitlines())
        return RegistrySettings()


def _service(name: str, problems: list[str]) -> str:
    if not _SERVICE.fullmatch(name):
        problems.append(f"--service {name!r} must be letters, digits and hyphens, as it is a name in DNS too")
    return name


def _busy(port: int, host: str) -> Iterator[str]:
    if port and not is_free(port, host):
        yield f"--port {port} is busy on {host}: {owner(port) or 'its owner is gone by now'}; choose another"


def _meta(pairs: tuple[str, ...], problems: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            problems.append(f"--meta {pair!r} is not KEY=VALUE")
        elif key in found:
            problems.append(f"--meta {pair!r} names {key} again")
        else:
            found[key] = value
    return found


def _read(file: Path | None, flag: str, problems: list[str]) -> bytes:
    if file is None:
        return b""
    try:
        data = file.read_bytes()
    except OSError as error:
        problems.append(f"{flag} {file} cannot be read: {error.strerror}")
        return b""
    if not data:
        problems.append(f"{flag} {file} is empty")
    return data


def _flag(field: str, options: Mapping[str, Any]) -> str:
    """The option that sets a field of a membership, with the file that it names."""
    flag = "--http-prefix" if field == "http_prefixes" else f"--{field.replace('_', '-')}"
    return f"{flag} {options[field]}" if isinstance(options[field], Path) else flag
