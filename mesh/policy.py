"""Which deadline and which retries hold for each method of a service. Pure.

Weakest first: the defaults below, then the gRPC service config that is published with the contract
(https://github.com/grpc/grpc/blob/master/doc/service_config.md). A retry policy only ever reaches methods
whose contract says NO_SIDE_EFFECTS or IDEMPOTENT.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mesh.contract import Contract, Method
from mesh.errors import Code, InvalidConfig
from mesh.registry.model import EMPTY

DEFAULT_TIMEOUT_SECONDS = 5.0
"""Deadline of a call without a stream, as long as nothing else is said."""
MAX_ATTEMPTS = 5
"""gRPC's own limit (gRFC A6)."""

RETRYABLE = (Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)
"""What xDS can say (gRFC A44)."""

_DURATION = re.compile(r"(\d+(?:\.\d{1,9})?)s")


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Attempts of one call, the first included, and the pause between them."""

    attempts: int = 3
    codes: tuple[Code, ...] = (Code.UNAVAILABLE,)
    base_seconds: float = 0.05
    max_seconds: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MethodPolicy:
    """What holds for the calls of one method."""

    timeout_seconds: float | None = None
    """Deadline of a call that brings none of its own; None for none."""

    retry: Retry | None = None
    """None: only what no server has seen is sent again."""

    unary: bool = False
    """Whether a call is one message each way."""


@dataclass(frozen=True)
class Policy:
    """What holds for a service."""

    methods: Mapping[str, MethodPolicy] = field(default_factory=lambda: EMPTY)
    """By path, in the contract's order."""

    fallback: MethodPolicy = MethodPolicy(timeout_seconds=DEFAULT_TIMEOUT_SECONDS)
    """For methods that the contract does not name; its timeout holds for unary calls."""


def effective(contract: Contract) -> Policy:
    """The policy of a contract. InvalidConfig, with the path of every fault, for a bad service config."""
    entries = tuple(_entries(contract.service_config))
    _refuse(_misplaced_retries(contract, entries))
    return Policy({path: _method_policy(method, entries) for path, method in contract.methods.items()})


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One name of one element of `methodConfig`; an empty name matches all."""

    where: str
    service: str
    method: str
    timeout_seconds: float | None
    retry: Retry | None

    def rank(self, path: str) -> int:
        """How exactly it names a path: 3 the method, 2 the service, 1 everything, 0 not at all."""
        service, method = path.removeprefix("/").split("/")
        if not self.service:
            return 1
        if self.service != service:
            return 0
        return 2 if not self.method else 3 if self.method == method else 0


def _method_policy(method: Method, entries: Iterable[_Entry]) -> MethodPolicy:
    policy = MethodPolicy(
        timeout_seconds=DEFAULT_TIMEOUT_SECONDS if method.unary else None,
        retry=Retry() if method.idempotent else None,
        unary=method.unary,
    )
    entry = max(entries, key=lambda e: e.rank(method.path), default=None)
    if entry is None or not entry.rank(method.path):
        return policy
    timeout = policy.timeout_seconds if entry.timeout_seconds is None else entry.timeout_seconds
    return replace(policy, timeout_seconds=timeout, retry=entry.retry if method.idempotent else None)


def _misplaced_retries(contract: Contract, entries: Iterable[_Entry]) -> Iterator[str]:
    for entry in entries:
        method = contract.methods.get(f"/{entry.service}/{entry.method}")
        if entry.service in contract.services and entry.method and method is None:
            yield f"{entry.where}: {entry.service} has no method {entry.method}"
        if entry.retry and method and not method.idempotent:
            yield (
                f"{entry.where}: a retry policy on {entry.service}/{entry.method}, whose contract does not say"
                " NO_SIDE_EFFECTS or IDEMPOTENT"
            )


def _entries(text: str) -> Iterator[_Entry]:
    if not text:
        return
    problems: list[str] = []
    entries = list(_parse(text, problems))
    _refuse(problems)
    yield from entries


def _parse(text: str, problems: list[str]) -> Iterator[_Entry]:
    try:
        config = json.loads(text)
    except ValueError as error:
        problems.append(f"service config: not JSON: {error}")
        return
    _only(config, {"methodConfig"}, "service config", problems)
    for i, element in enumerate(_list(config, "methodConfig", "", problems)):
        yield from _parse_element(element, f"methodConfig[{i}]", problems)


def _parse_element(element: Any, where: str, problems: list[str]) -> Iterator[_Entry]:
    if not _only(element, {"name", "timeout", "retryPolicy"}, where, problems):
        return
    timeout = _duration(element.get("timeout"), f"{where}.timeout", problems)
    retry = _retry(element.get("retryPolicy"), f"{where}.retryPolicy", problems)
    for i, name in enumerate(_list(element, "name", f"{where}.", problems)):
        if not _only(name, {"service", "method"}, f"{where}.name[{i}]", problems):
            continue
        yield _Entry(
            where=f"{where}.name[{i}]",
            service=str(name.get("service", "")),
            method=str(name.get("method", "")),
            timeout_seconds=timeout,
            retry=retry,
        )


def _retry(value: Any, where: str, problems: list[str]) -> Retry | None:
    known = {"maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes"}
    if value is None or not _only(value, known, where, problems):
        return None
    attempts = value.get("maxAttempts", 0)
    if not isinstance(attempts, int) or not 2 <= attempts <= MAX_ATTEMPTS:
        problems.append(f"{where}.maxAttempts: {attempts!r} is not a number from 2 to {MAX_ATTEMPTS}")
    return Retry(
        attempts=attempts,
        codes=tuple(_codes(_list(value, "retryableStatusCodes", f"{where}.", problems), where, problems)),
        base_seconds=_duration(value.get("initialBackoff"), f"{where}.initialBackoff", problems) or 0.05,
        max_seconds=_duration(value.get("maxBackoff"), f"{where}.maxBackoff", problems) or 1.0,
    )


def _codes(names: Iterable[Any], where: str, problems: list[str]) -> Iterator[Code]:
    allowed = {code.name: code for code in RETRYABLE}
    for name in names:
        if isinstance(name, str) and name in allowed:
            yield allowed[name]
        else:
            problems.append(f"{where}.retryableStatusCodes: {name!r} is not one of {', '.join(allowed)}")


def _duration(value: Any, where: str, problems: list[str]) -> float | None:
    if value is None:
        return None
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match and float(match[1]) > 0:
        return float(match[1])
    problems.append(f'{where}: {value!r} is not a positive duration such as "1.5s"')
    return None


def _list(value: Any, key: str, where: str, problems: list[str]) -> list[Any]:
    """A list at a key of an object; empty, and said so, when it is none."""
    found = value.get(key, []) if isinstance(value, dict) else []
    if isinstance(found, list):
        return found
    problems.append(f"{where}{key}: {found!r} is not a list")
    return []


def _only(value: Any, known: set[str], where: str, problems: list[str]) -> bool:
    """Whether the value is an object; says so when it is not, or has fields that are not known."""
    if not isinstance(value, dict):
        problems.append(f"{where}: {value!r} is not an object")
        return False
    problems.extend(f"{where}.{name}: unknown field" for name in sorted(set(value) - known))
    return True


def _refuse(problems: Iterable[str]) -> None:
    if found := list(problems):
        raise InvalidConfig.of(found)
