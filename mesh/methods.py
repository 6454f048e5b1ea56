"""Which service and method is meant. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Final

from mesh.commands import word
from mesh.errors import Code, Error, InvalidConfig

NO_SERVICE: Final = "NO_SERVICE"
"""Reason of the error about a service that nobody registered."""

NO_METHOD: Final = "NO_METHOD"
"""Reason of the error about a method that a service has not."""


def asked(target: str) -> tuple[str, str]:
    """What `SERVICE[/METHOD]` names: the service, and the method or nothing. InvalidConfig for anything else."""
    service, slash, rest = target.partition("/")
    method = rest.strip("/")
    if service and bool(slash) is bool(method) and method.count("/") <= 1:
        return service, method
    problem = f"{target or 'an empty text'} names no service" if not service else f"{target} names no method"
    raise InvalidConfig.of([
        f"{problem}: write SERVICE or SERVICE/METHOD, as in `mesh explain order` or `mesh explain order/GetOrder`"
    ])  # fmt: skip


def find(service: str, method: str, paths: Iterable[str]) -> str:
    """The path of a method by its name, its full name, or any end of that between the two. NOT_FOUND, or
    INVALID_ARGUMENT when several have that name.
    """
    known = tuple(paths)
    wanted = method.strip("/")
    found = [path for path in known if path == f"/{wanted}"] or [path for path in known if _ends(path, wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.removeprefix("/") for path in found)
        raise Error(Code.INVALID_ARGUMENT, f"{method} may be any of {names}: give the full name")
    hint = _known(service, wanted, known)
    raise Error(Code.NOT_FOUND, f"{service} has no method {method}; {hint}", reason=NO_METHOD)


def _ends(path: str, wanted: str) -> bool:
    return path.endswith((f"/{wanted}", f".{wanted}"))


def _known(service: str, wanted: str, paths: tuple[str, ...]) -> str:
    if not paths:
        return f"it publishes no contract, so none is known: `mesh explain {word(service)}` tells what holds for all"
    names = [path.rpartition("/")[2] for path in paths]
    near = [name for part in reversed(wanted.split("/")) for name in get_close_matches(part, names, n=3)]
    if near:
        return f"did you mean {' or '.join(dict.fromkeys(near))}?"
    return f"`mesh explain {word(service)}` lists those that it has"


def meant(name: str, known: Iterable[str]) -> str:
    """What to add to a sentence about a name that nobody has: the nearest one that somebody has, if any is near."""
    near = get_close_matches(name, sorted(known), n=1)
    return f": did you mean {near[0]}?" if near else ""


def unknown_service(service: str, known: Iterable[str]) -> Error:
    """NOT_FOUND for a name that nobody registered and nothing is said of."""
    return Error(Code.NOT_FOUND, "; ".join(_unknown(service, sorted(known))), reason=NO_SERVICE)


def _unknown(service: str, known: list[str]) -> Iterator[str]:
    yield f"nobody registered {service}, and no policy is about it"
    if near := get_close_matches(service, known, n=3):
        yield f"did you mean {' or '.join(near)}?"
    elif known:
        yield f"on the mesh are {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
    else:
        yield f"nothing is on the mesh: `mesh run --service {word(service)} -- COMMAND` puts a program on it"
