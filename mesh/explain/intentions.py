"""What intentions say of the calls of one service to another, and what comes of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.intentions import Decision, Intentions
from mesh.registry.model import MUTUAL_TLS, TLS_META, Instance
from meshwright.sidecar.v1 import explanation_pb2 as pb

_UNREAD = Decision(allowed=False, reason="not known, as the registry has never told of intentions")
_BY_HEADER = "; calls with a header that its permissions look at may be decided otherwise"


def permissibility(
    caller: str, service: str, paths: Sequence[str], intentions: Intentions | None, observed: Iterable[Instance]
) -> pb.Permissibility:
    """Whether a service may call the methods of another, `/package.Service/Method`, whose instances are these.

    Without intentions nobody knows them.
    """
    verdicts = [_verdict(path, _decided(caller, service, path, intentions)) for path in paths]
    if len({(one.allowed, one.reason) for one in verdicts}) == 1:
        verdicts = verdicts[:1]
        verdicts[0].method = verdicts[0].method if len(paths) == 1 else ""
    held = tuple(observed)
    open_to_all = tuple(one for one in held if one.meta.get(TLS_META) != MUTUAL_TLS)
    return pb.Permissibility(
        caller=caller,
        default="allow" if intentions and intentions.default_allow else "deny",
        verdicts=verdicts,
        enforced=bool(held) and not open_to_all,
        effect=_effect(held, open_to_all, known=intentions is not None),
    )


def _decided(caller: str, service: str, path: str, intentions: Intentions | None) -> Decision:
    return intentions.decide(caller, service, path) if intentions else _UNREAD


def _verdict(path: str, decision: Decision) -> pb.Verdict:
    found = decision.intention
    return pb.Verdict(
        method=path.removeprefix("/"),
        allowed=decision.allowed,
        intention=str(found) if found else "",
        precedence=found.precedence if found else 0,
        reason=decision.reason + (_BY_HEADER if found and found.looks_at_headers else ""),
    )


def _effect(held: tuple[Instance, ...], open_to_all: tuple[Instance, ...], *, known: bool) -> str:
    if not held:
        return "it has no instance"
    if open_to_all:
        names = ", ".join(one.id for one in open_to_all)
        return f"{names} cannot tell who calls, without mutual TLS, and lets everybody in"
    if not known:
        return "mesh.server ends every call with UNAVAILABLE until its sidecar has read intentions"
    return "mesh.server ends what is denied with PERMISSION_DENIED, streams that are open too"
