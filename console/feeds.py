"""What a process that serves xDS says of itself at /metrics, as figures for people. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_PROPAGATION = "mesh_propagation_seconds"
_COUNTS = {"streams": "xds_streams", "pushes": "xds_pushes_total", "acks": "xds_acks_total", "nacks": "xds_nacks_total"}
_AGE = "mesh_snapshot_age_seconds"


def feed(job: str, text: str) -> dict[str, Any]:
    """Clients, pushes, ACKs and NACKs since its start, seconds since the registry answered, and propagation.

    `text` is in Prometheus' format. Quantiles of the propagation are the upper bounds in seconds of the buckets that
    they fall into; None without a change so far, as is what it does not tell.
    """
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    total = {name: _total(sample.value for sample in samples if sample.name == name) for name in _COUNTS.values()}
    age = next((sample.value for sample in samples if sample.name == _AGE), None)
    below = [(float(s.labels["le"]), s.value) for s in samples if s.name == f"{_PROPAGATION}_bucket"]
    return {
        "job": job,
        **{key: total[name] for key, name in _COUNTS.items()},
        "snapshot_age_seconds": None if age is None else round(age, 3),
        "propagation": {"count": int(below[-1][1]) if below else 0, **_quantiles(below)},
    }


def addresses(groups: Sequence[Mapping[str, Any]], jobs: Iterable[str]) -> list[tuple[str, str]]:
    """Job and address of the processes that do these jobs, out of the content of a file for Prometheus."""
    return [(group["labels"]["job"], address) for group in groups if group["labels"].get("job") in jobs
            for address in group["targets"]]  # fmt: skip


def _total(values: Iterable[float]) -> int:
    return int(sum(values))


def _quantiles(below: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    return {f"p{percent}": _quantile(below, percent / 100) for percent in (50, 99)}


def _quantile(below: Sequence[tuple[float, float]], share: float) -> float | None:
    """The first bound that so many observations are within; None without any, and beyond the last bound."""
    if not below or not below[-1][1]:
        return None
    bound = next(bound for bound, count in below if count >= share * below[-1][1])
    return bound if bound != float("inf") else None
