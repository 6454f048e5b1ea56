"""Intentions as a sidecar tells them to the processes of its host. Pure."""

from __future__ import annotations

from mesh.intentions import Intention, Intentions, Permission
from mesh.policy.model import Comparison, HeaderMatch, Match
from meshwright.sidecar.v1 import intentions_pb2 as pb


def to_message(intentions: Intentions) -> pb.Intentions:
    """For the wire."""
    held = [_intention_message(intention) for intention in intentions.held]
    return pb.Intentions(intentions=held, default_allow=intentions.default_allow)


def from_message(message: pb.Intentions) -> Intentions:
    """From the wire. Raises ValueError for what this version does not know."""
    held = tuple(_intention(one) for one in message.intentions)
    return Intentions(held=held, default_allow=message.default_allow)


def _intention_message(intention: Intention) -> pb.Intention:
    return pb.Intention(
        source=intention.source,
        destination=intention.destination,
        precedence=intention.precedence,
        allow=intention.allow,
        permissions=[_permission_message(permission) for permission in intention.permissions],
        fault=intention.fault,
    )


def _intention(message: pb.Intention) -> Intention:
    return Intention(
        source=message.source,
        destination=message.destination,
        precedence=message.precedence,
        allow=message.allow,
        permissions=tuple(_permission(one) for one in message.permissions),
        fault=message.fault,
    )


def _permission_message(permission: Permission) -> pb.Permission:
    match = permission.match
    return pb.Permission(
        allow=permission.allow,
        path=match.path,
        prefix=match.prefix,
        regex=match.regex,
        verbs=permission.verbs,
        headers=[_header_message(condition) for condition in match.conditions],
    )


def _permission(message: pb.Permission) -> Permission:
    conditions = tuple(_header(one) for one in message.headers)
    match = Match(path=message.path, prefix=message.prefix, regex=message.regex, conditions=conditions)
    return Permission(allow=message.allow, match=match, verbs=tuple(message.verbs))


def _header_message(condition: HeaderMatch) -> pb.HeaderCondition:
    return pb.HeaderCondition(
        name=condition.name,
        comparison=condition.comparison.value,
        value=condition.value,
        inverted=condition.inverted,
        ignore_case=condition.ignore_case,
    )


def _header(message: pb.HeaderCondition) -> HeaderMatch:
    return HeaderMatch(
        name=message.name,
        comparison=Comparison(message.comparison),
        value=message.value,
        inverted=message.inverted,
        ignore_case=message.ignore_case,
    )
