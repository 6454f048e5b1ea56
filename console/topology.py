"""The service map as JSON: what spans say of the calls, and what the registry says of the instances. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from console.digest import STEP
from console.figures import Figures
from console.pairing import OUTSIDE, Edge

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from console.digest import Digest

GATEWAY = "gateway"
"""Name by which the edge sends its spans."""

WINDOW_STEPS = 6
STEADY_ERRORS = 0.05
"""Share of failing calls from which a service is called degraded."""

Place = dict[str, Any]
"""An instance or a process: id, address, zone, version, health (passing, warning or critical), restarts (or None)."""

_PROCESS_OF = {GATEWAY: "envoy", "postgresql": "postgres", "redis": "valkey"}
"""Name of the local process behind a node, where that is another one."""


def service_map(
    digest: Digest, services: Mapping[str, list[Place]], processes: Mapping[str, Place], now: int
) -> dict[str, Any]:
    """Nodes and edges of the last minute; a node or edge stays on the map for an hour.

    `services` has the instances of each, `processes` what the launcher runs besides, by name; `now` is in nanoseconds
    since 1970.
    """
    seconds = _window_seconds(now)
    recent, known = digest.edges.sums(now, WINDOW_STEPS), digest.edges.known()
    served = _by_service(digest.methods.sums(now, WINDOW_STEPS))
    senders = {service for service, _ in digest.methods.known()} | {edge.caller for edge in known}
    edges = _named(recent, known, {place["address"]: name for name, place in processes.items()})
    nodes = _nodes(edges, services, served, senders)
    return {
        "window_seconds": round(seconds),
        "at": now // 1_000_000,
        "nodes": [
            _node(name, kind, figures, instances_of(name, services, processes), seconds)
            for name, (kind, figures) in nodes.items()
        ],
        "edges": [_edge(edge, figures, seconds) for edge, figures in sorted(edges.items())],
    }


def rates(figures: Figures, seconds: float) -> dict[str, Any]:
    """Rate in calls per second, error rate as a share, quantiles in milliseconds or None."""
    return {
        "rate": round(figures.calls / seconds, 3),
        "error_rate": round(figures.error_rate, 4),
        **{f"p{percent}": _rounded(figures.quantile(percent / 100)) for percent in (50, 90, 99)},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _named(recent: Mapping[Edge, Figures], known: Iterable[Edge], names: Mapping[str, str]) -> dict[Edge, Figures]:
    """Figures of each pair, all kinds together; what was dialled by address under the name of the process there."""
    figures: dict[tuple[str, str], Figures] = {}
    kinds: dict[tuple[str, str], set[str]] = {}
    for edge in known:
        pair = edge.caller, names.get(edge.callee, edge.callee)
        figures.setdefault(pair, Figures()).add(recent.get(edge, Figures()))
        kinds.setdefault(pair, set()).update(filter(None, [edge.kind]))
    return {Edge(*pair, "+".join(sorted(kinds[pair]))): total for pair, total in figures.items()}


def _by_service(methods: Mapping[tuple[str, str], Figures]) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    for (service, _), figures in methods.items():
        found.setdefault(service, Figures()).add(figures)
    return found


def _nodes(
    edges: Mapping[Edge, Figures], services: Collection[str], served: Mapping[str, Figures], senders: Collection[str]
) -> dict[str, tuple[str, Figures]]:
    """Kind and figures of every node, sorted by name."""
    found = {name: _kind(name, edges, name in senders or name in services) for edge in edges for name in edge[:2]}
    found |= {name: _kind(name, edges, True) for name in (*services, *senders)}
    return {name: (kind, served.get(name) or _received(name, edges)) for name, kind in sorted(found.items())}


def _kind(name: str, edges: Iterable[Edge], is_service: bool) -> str:
    if name == OUTSIDE:
        return "client"
    if name == GATEWAY:
        return "gateway"
    if is_service:
        return "service"
    kinds = {kind for edge in edges if edge.callee == name for kind in edge.kind.split("+")}
    return "store" if kinds & {"sql", "redis", "event"} else "unknown"


def _received(name: str, edges: Mapping[Edge, Figures]) -> Figures:
    return Figures.sum(figures for edge, figures in edges.items() if edge.callee == name)


def _process(node: str, processes: Mapping[str, Place]) -> list[Place]:
    system = node.partition("/")[0]
    found = processes.get(_PROCESS_OF.get(system, system))
    return [found] if found else []


def _node(name: str, kind: str, figures: Figures, instances: list[Place], seconds: float) -> dict[str, Any]:
    health = _health(kind, figures, [place["health"] for place in instances])
    return {"name": name, "kind": kind, "health": health, "instances": instances, **rates(figures, seconds)}


def _health(kind: str, figures: Figures, instances: list[str]) -> str:
    if kind == "client":
        return "unknown"
    if instances and "passing" not in instances and "warning" not in instances:
        return "down"
    if any(one != "passing" for one in instances) or figures.error_rate >= STEADY_ERRORS:
        return "degraded"
    return "ok" if instances or figures.calls else "unknown"


def _edge(edge: Edge, figures: Figures, seconds: float) -> dict[str, Any]:
    return {"from": edge.caller, "to": edge.callee, "kind": edge.kind, **rates(figures, seconds)}


def busiest(digest: Digest, processes: Mapping[str, Place], now: int) -> dict[str, Any]:
    """Methods and edges that were called within the last minute, the busiest first; as in `service_map`."""
    seconds = _window_seconds(now)
    methods = digest.methods.sums(now, WINDOW_STEPS).items()
    recent = digest.edges.sums(now, WINDOW_STEPS)
    edges = _named(recent, recent, {place["address"]: name for name, place in processes.items()})
    return {
        "window_seconds": round(seconds),
        "at": now // 1_000_000,
        "methods": _by_rate({"service": key[0], "method": key[1], **rates(one, seconds)} for key, one in methods),
        "edges": _by_rate(_edge(edge, one, seconds) for edge, one in edges.items()),
    }


def _by_rate(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (-row["rate"], *map(str, row.values())))


def _window_seconds(now: int) -> float:
    return (WINDOW_STEPS * STEP + now % STEP) / 1e9


def instances_of(name: str, services: Mapping[str, list[Place]], processes: Mapping[str, Place]) -> list[Place]:
    """Where a node of the map runs, as far as anybody knows."""
    return services.get(name) or _process(name, processes)


def service_page(digest: Digest, name: str, minutes: int, now: int) -> dict[str, Any]:
    """Figures of a service and of each of its methods over some minutes, and its newest mistakes."""
    steps = minutes * 60 * 10**9 // STEP
    series = [(at, _of_service(step, name)) for at, step in digest.methods.series(now, steps)]
    methods = sorted({method for _, step in series for method in step})
    whole = [(at, Figures.sum(step.values())) for at, step in series]
    return {
        "name": name,
        "at": now // 1_000_000,
        "minutes": minutes,
        "total": _over_time(whole),
        "methods": [
            {"name": method, **_over_time([(at, step.get(method, Figures())) for at, step in series])}
            for method in methods
        ],
        "recent_errors": [
            {
                "trace_id": one.trace_id.hex(), "span_id": one.span_id.hex(), "at": one.end // 1_000_000,
                "method": one.method, "status": one.status, "duration": one.duration / 1e6, "message": one.message,
            }
            for one in digest.mistakes(name)
        ],
    }  # fmt: skip


def _of_service(step: Mapping[tuple[str, str], Figures], name: str) -> dict[str, Figures]:
    return {method: figures for (service, method), figures in step.items() if service == name}


def _over_time(parts: list[tuple[int, Figures]]) -> dict[str, Any]:
    """Figures of the whole time, and of each step of it."""
    seconds = STEP / 1e9
    points = [
        {"at": at // 1_000_000, "errors": round(part.errors / seconds, 3), **rates(part, seconds)} for at, part in parts
    ]
    return {**rates(Figures.sum(part for _, part in parts), len(parts) * seconds), "series": points}


def dependencies(digest: Digest, since: int, until: int, now: int) -> list[dict[str, Any]]:
    """Jaeger's answer to `/api/dependencies`: calls between services from one nanosecond to another."""
    counts: dict[tuple[str, str], int] = {}
    for at, step in digest.edges.series(now, (now - max(since, 0)) // STEP + 1):
        if since - STEP < at <= until:
            for edge, figures in step.items():
                if edge.caller != OUTSIDE:
                    counts[edge[:2]] = counts.get(edge[:2], 0) + figures.calls
    return [{"parent": a, "child": b, "callCount": count} for (a, b), count in sorted(counts.items())]
