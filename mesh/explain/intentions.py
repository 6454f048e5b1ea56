"""What intentions say of the calls of one service to another, and what comes of it. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from mesh.commands import curl, words
from mesh.intentions import ANY, PARTS, Decision, Intention, Intentions
from mesh.methods import meant
from mesh.registry.model import MUTUAL_TLS, TLS_META, Instance
from mesh.xds.resources import Peers
from meshwright.sidecar.v1 import explanation_pb2 as pb

EDGE: Final = "gateway"
"""The service that the gateway is."""

_UNREAD = Decision(allowed=False, reason="not known, as the registry has never told of intentions")
_BY_HEADER = "; calls with a header that its permissions look at may be decided otherwise"


def permissibility(
    caller: str,
    service: str,
    paths: Sequence[str],
    intentions: Intentions | None,
    called: Iterable[Instance],
    *,
    secured: bool,
    registry: str = "",
    names: Collection[str] = (),
) -> pb.Permissibility:
    """Whether a service may call the methods of another, `/package.Service/Method`, of which these instances are
    called.

    Without intentions nobody knows them. `secured`: on a mesh with TLS; `registry`: its address; `names`: of all
    services on the mesh, none where they are not known.
    """
    decided = {path: _decided(caller, service, path, intentions) for path in paths}
    denied = next((one for one in decided.values() if not one.allowed), None) if intentions else None
    verdicts = [_verdict(path, decision) for path, decision in decided.items()]
    if len({(one.allowed, one.reason) for one in verdicts}) == 1:
        verdicts = verdicts[:1]
        verdicts[0].method = verdicts[0].method if len(paths) == 1 else ""
    enforced, effect = _effect(caller, tuple(called), secured=secured, known=intentions is not None)
    return pb.Permissibility(
        caller=caller,
        default="allow" if intentions and intentions.default_allow else "deny",
        verdicts=verdicts,
        enforced=enforced,
        effect=effect,
        remedy=_remedy(caller, service, denied, registry) if denied and secured else "",
        stranger=_stranger(caller, names) if names else "",
    )


def denied_failover(service: str, peers: Peers, intentions: Intentions | None) -> Iterator[str]:
    """Where the gateway does not fail over to: what it may not call there cannot be told from what it may."""
    targets = (target for d in peers[service].policy.destinations.values() for target in d.failover)
    for name in dict.fromkeys(target.service for target in targets):
        if peers[name].may_be_plain and not (intentions and intentions.allow_all(EDGE, name)):
            yield (
                f"the gateway does not fail over to {name}: it may be called in plaintext, and intentions do not allow"
                f" every call of it: `{words(('mesh', 'explain', '--from', EDGE, name))}` says which"
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


def _stranger(caller: str, names: Collection[str]) -> str:
    if caller in (*names, *PARTS, ANY):
        return ""
    return f"Nobody is registered as {caller} now, so this is what holds for the name{meant(caller, names)}"


def _remedy(caller: str, service: str, denied: Decision, registry: str) -> str:
    """The command that lets a service call another; two where only its operator knows what to write."""
    found, place = denied.intention, "connect/intentions"
    if found and (found.permissions or found.fault):
        return _correction(found, registry)
    body = json.dumps({"SourceType": "consul", "SourceName": caller, "DestinationName": service, "Action": "allow"})
    if found is None or (found.source, found.destination) != (caller, service):
        return curl(registry, place, method="POST", body=body)
    if found.id:
        return curl(registry, place, found.id, method="PUT", body=body)
    return curl(registry, f"{place}/exact", method="PUT", body=body, source=caller, destination=service)


def _correction(found: Intention, registry: str) -> str:
    read = curl(registry, "config/service-intentions", found.destination)
    write = f"{curl(registry, 'config', method='PUT')} -d @intentions.json"
    return f"correct what is said of {found} in the file that `{read} > intentions.json` makes, then `{write}`"


def _effect(caller: str, held: tuple[Instance, ...], *, secured: bool, known: bool) -> tuple[bool, str]:
    """Whether anybody keeps to what is decided, and what happens."""
    if not secured:
        return False, "this mesh is in plaintext, so nobody can tell who calls"
    if not held:
        return False, "there is no instance that may be called"
    if plain := [one.id for one in held if one.meta.get(TLS_META) != MUTUAL_TLS]:
        if caller == EDGE:
            return True, f"the gateway itself does not send what is denied, as {', '.join(plain)} cannot tell who calls"
        return False, f"{', '.join(plain)} cannot tell who calls, without mutual TLS, and lets everybody in"
    if not known:
        return True, "mesh.server ends every call with UNAVAILABLE until its sidecar has read intentions"
    return True, "mesh.server ends what is denied with PERMISSION_DENIED, streams that are open too"
