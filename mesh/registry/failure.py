"""What can go wrong with a registry, told as `mesh.errors.Error` with what to do about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from consul import exceptions

from mesh.errors import Code, Error

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATUS = re.compile(r"\s*(\d{3}) (.*)", re.DOTALL)

_TRANSIENT = ("No cluster leader", "rpc error", "connection refused", "leadership lost", "timed out")
_UNKNOWN_KIND = ("invalid config entry kind", "Invalid config entry kind")
_USER_ERRORS = (*_UNKNOWN_KIND, "No path to datacenter")

_HINT: Mapping[Code, str] = {
    Code.PERMISSION_DENIED: "Set CONSUL_HTTP_TOKEN to a token with the rights that the message names.",
    Code.UNAVAILABLE: "Is it running? `mesh up` starts one; CONSUL_HTTP_ADDR names another.",
}

_NO_CONNECT = (
    "Certificates come from Consul's Connect: set `connect { enabled = true }` in the configuration of its servers, or"
    " go without mutual TLS: `mesh up --plaintext`, or MESH_MTLS=false for all other commands."
)


def to_error(error: Exception, address: str) -> Error:
    """The error that callers of a registry see for one of its client's. The original becomes its cause."""
    if not isinstance(error, exceptions.ConsulException):
        return _unreachable(error, address)
    code, text = _code_and_text(error)
    hint = _NO_CONNECT if "Connect must be enabled" in text else _HINT.get(code, "")
    message = f"the registry at {address} answered: {text.strip()}."
    return Error(code, f"{message} {hint}".strip(), reason=f"REGISTRY_{code.name}", metadata={"text": text.strip()})


def _unreachable(error: Exception, address: str) -> Error:
    why = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    message = f"the registry at {address} cannot be reached ({why}). {_HINT[Code.UNAVAILABLE]}"
    return Error(Code.UNAVAILABLE, message, reason="REGISTRY_UNREACHABLE")


def _code_and_text(error: Exception) -> tuple[Code, str]:
    text = str(error)
    if isinstance(error, exceptions.ACLPermissionDenied | exceptions.ACLDisabled):
        return Code.PERMISSION_DENIED, text or "permission denied"
    if isinstance(error, exceptions.NotFound):
        return Code.NOT_FOUND, text
    found = _STATUS.fullmatch(text)
    if found is None:
        return Code.INTERNAL, f"{text.partition(': <')[0]} (not what Consul says)"  # without a page or all headers
    return _code(int(found[1]), found[2]), found[2]


def _code(status: int, text: str) -> Code:
    if status == 413 or any(phrase in text for phrase in _USER_ERRORS):
        return Code.INVALID_ARGUMENT
    if status == 500:
        return Code.UNAVAILABLE if any(phrase in text for phrase in _TRANSIENT) else Code.INTERNAL
    return Code.from_http_status(status)


def is_forgotten(error: Error) -> bool:
    """Whether the registry said that it has no such TTL check (1.8: 500, newer: 404)."""
    text = error.metadata.get("text", "")
    return "does not have associated TTL" in text or "Unknown check" in text or error.code is Code.NOT_FOUND


def is_unknown_kind(error: Error) -> bool:
    """Whether this Consul does not have a kind of config entry, which no wait can mend."""
    return any(phrase in error.metadata.get("text", "") for phrase in _UNKNOWN_KIND)


def refused_write(error: Error) -> Error:
    """Consul answers 500 for config entries that contradict others: the content's fault, not the registry's."""
    if error.code is not Code.INTERNAL or "text" not in error.metadata:
        return error
    return Error(Code.INVALID_ARGUMENT, error.message, reason="CONFIG_ENTRY_REFUSED", metadata=error.metadata)


def invalid(message: str) -> Error:
    """An argument that no registry takes."""
    return Error(Code.INVALID_ARGUMENT, message, reason="INVALID_ARGUMENT")
