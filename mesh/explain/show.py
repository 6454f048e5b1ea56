"""What `mesh explain` prints. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict

from mesh.policy.reading import plain
from mesh.tables import table
from mesh.xds.dialect import ENVOY

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from meshwright.sidecar.v1 import explanation_pb2 as pb


def as_json(explanation: pb.Explanation) -> str:
    """For programs: the message as it is, every field that is a list or a text always there."""
    found = MessageToDict(explanation, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return json.dumps(found, indent=2)


def as_text(explanation: pb.Explanation) -> str:
    """For people."""
    title = f"{explanation.service}/{explanation.method}" if explanation.method else explanation.service
    about = _method(explanation) if explanation.method else _methods(explanation)
    parts = [title, *_permissibility(explanation), *about, *_rest(explanation)]
    return "\n\n".join(part for part in parts if part)


def _method(explanation: pb.Explanation) -> Iterator[str]:
    held, sent = explanation.deadline, explanation.retry
    yield table([("deadline", _deadline(held), held.source), ("retries", _retry(sent), sent.source)])


def _permissibility(explanation: pb.Explanation) -> Iterator[str]:
    if not explanation.HasField("intentions"):
        return
    found = explanation.intentions
    rows = [
        (one.method.rpartition("/")[2] or "(any)", "may" if one.allowed else "may not", one.intention or "-",
         str(one.precedence or "-"), one.reason)
        for one in found.verdicts
    ]  # fmt: skip
    verdicts = table([("METHOD", found.caller, "INTENTION", "PRECEDENCE", "WHY"), *rows])
    effect = f"{'Enforced' if found.enforced else 'Not enforced'}: {found.effect}. The default is {found.default}."
    yield found.stranger
    yield from (verdicts, effect) if found.enforced else (effect, verdicts)
    if found.remedy:
        yield f"To let it: {found.remedy}"


def _methods(explanation: pb.Explanation) -> Iterator[str]:
    rows = [
        (method.name.rpartition("/")[2], _deadline(method.deadline), method.deadline.source, _retry(method.retry),
         method.retry.source)
        for method in explanation.methods
    ]  # fmt: skip
    held, sent = explanation.deadline, explanation.retry
    other = ("(any other)", _deadline(held), held.source, _retry(sent), sent.source)
    yield table([("METHOD", "DEADLINE", "FROM", "RETRIES", "FROM"), *rows, other])


def _rest(explanation: pb.Explanation) -> Iterator[str]:
    routes = [("ROUTE", "DEADLINE", "ATTEMPTS", "GOES TO", "FROM"), *map(_route, explanation.routes)]
    clients = [("CLIENT", "DEADLINE", "ATTEMPTS", "BALANCING"), *map(_dialect, explanation.dialects)]
    whole = not explanation.method
    yield table([(row[0], *row[3:]) for row in routes] if whole else routes)
    yield from map(_balancing, explanation.balancing)
    yield _instances(explanation.instances)
    yield table([(row[0], *row[3:]) for row in clients] if whole else clients)
    yield "\n".join([*_told(explanation.dialects), *(f"- {note}" for note in explanation.notes)])


def _route(route: pb.Route) -> tuple[str, ...]:
    goes = ", ".join(_share(share, alone=len(route.shares) == 1) for share in route.shares)
    return route.match, _deadline(route.deadline), str(route.retry.attempts), goes, route.source


def _share(share: pb.Share, *, alone: bool) -> str:
    count = f"{share.target} ({share.instances} instance{'' if share.instances == 1 else 's'})"
    return count if alone else f"{plain(share.percent)} % {count}"


def _balancing(found: pb.Balancing) -> str:
    by = f" by {', '.join(found.hashed_headers)}" if found.hashed_headers else ""
    rows = [("balancing", found.kind + by, found.source)]
    if found.failover:
        rows.append(("failover", ", ".join(found.failover), found.failover_source))
    rows.append(("connect timeout", seconds(found.connect_timeout), found.connect_timeout_source))
    rows.append(("outlier detection", _outliers(found.outlier_detection), found.outlier_detection.source))
    rows.append(("limits", _limits(found.limits), found.limits.source))
    return f"{found.target}\n" + "\n".join(f"  {line}" for line in table(rows).splitlines())


def _outliers(found: pb.OutlierDetection) -> str:
    tests = []
    if found.HasField("failure_percentage"):
        tests.append(f"{found.failure_percentage} % failed")
    if found.HasField("success_rate_stdev_factor"):
        tests.append(f"{plain(found.success_rate_stdev_factor / 1000)} deviations below the mean")
    if found.HasField("consecutive_failures"):
        tests.append(f"{found.consecutive_failures} in a row failed (Envoy)")
    if not tests:
        return "off"
    return f"out for {seconds(found.base_ejection)} when in {seconds(found.interval)} {' or '.join(tests)}"


def _limits(found: pb.Limits) -> str:
    said = []
    if found.HasField("max_requests"):
        said.append(f"{found.max_requests} calls at once")
    if found.HasField("max_connections"):
        said.append(f"{found.max_connections} connections (Envoy)")
    if found.HasField("max_pending_requests"):
        said.append(f"{found.max_pending_requests} calls that wait (Envoy)")
    return ", ".join(said) or "none"


def _instances(found: Iterable[pb.Instance]) -> str:
    rows = [
        (i.id, i.address, i.zone or "-", f"{i.health}: {i.output}" if i.output and i.health != "passing" else i.health,
         "yes" if i.in_rotation else "no", ", ".join(i.targets) or "-")
        for i in found
    ]  # fmt: skip
    return table([("INSTANCE", "ADDRESS", "ZONE", "HEALTH", "CALLED", "OF"), *rows]) if rows else "No instance."


def _dialect(found: pb.Dialect) -> tuple[str, ...]:
    timeout = seconds(found.timeout) if found.HasField("timeout") else "none"
    kinds = [text.rpartition(" ")[2] for text in found.balancing]
    shown = kinds[0] if len(set(kinds)) == 1 else ", ".join(found.balancing)
    return found.name, timeout, str(found.attempts), shown


def _told(found: Sequence[pb.Dialect]) -> Iterator[str]:
    """Each note once, with the clients that it is about."""
    clients: dict[str, list[str]] = {}
    for dialect in found:
        for note in dialect.notes:
            clients.setdefault(note, []).append(dialect.name)
    every = [dialect.name for dialect in found if dialect.name != ENVOY.name]
    for note, names in clients.items():
        yield f"- {'every gRPC client' if names == every else ', '.join(names)}: {note}"


def _deadline(found: pb.Deadline) -> str:
    return seconds(found.timeout) if found.HasField("timeout") else "none"


def _retry(found: pb.Retry) -> str:
    if found.attempts <= 1:
        return "none"
    pause = f"{seconds(found.base_delay)} to {seconds(found.max_delay)} apart"
    return f"{found.attempts} attempts on {', '.join(found.codes)}, {pause}"


def seconds(found: Duration) -> str:
    """A duration for people."""
    value = found.ToNanoseconds() / 1e9
    return f"{plain(value * 1000)} ms" if 0 < value < 1 else f"{plain(value)} s"
