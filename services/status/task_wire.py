"""Task results as the contract has them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh import Refused
from meshwright.status.v1 import task_result_pb2
from services.status.tasks import State, TaskFilter
from services.timestamps import moment, timestamp

if TYPE_CHECKING:
    from datetime import datetime

    from meshwright.status.v1 import status_service_pb2
    from services.status.tasks import TaskResult


def message(result: TaskResult) -> task_result_pb2.TaskResult:
    """A run."""
    return task_result_pb2.TaskResult(
        id=str(result.id),
        task=result.task,
        state=task_result_pb2.TaskResult.State.Value(f"STATE_{result.state}"),
        instance=result.instance,
        schedule_time=timestamp(result.schedule_time),
        start_time=timestamp(result.start_time),
        end_time=timestamp(result.end_time),
        summary=result.summary,
        error=result.error,
    )


def wanted(request: status_service_pb2.ListTaskResultsRequest) -> TaskFilter:
    """Which runs a request asks for. Raises `Refused` with every filter that makes no sense."""
    faults: list[tuple[str, str]] = []
    found = TaskFilter(
        task=request.task or None,
        state=_state(request.state, faults),
        start_from=_bound(request, "start_time_from", faults),
        start_to=_bound(request, "start_time_to", faults),
    )
    if faults:
        raise Refused.of(faults)
    return found


def _state(value: task_result_pb2.TaskResult.State.ValueType, faults: list[tuple[str, str]]) -> State | None:
    try:
        return State(task_result_pb2.TaskResult.State.Name(value).removeprefix("STATE_")) if value else None
    except ValueError:
        faults.append(("state", f"{value} is no state of a task's run"))
        return None


def _bound(
    request: status_service_pb2.ListTaskResultsRequest, field: str, faults: list[tuple[str, str]]
) -> datetime | None:
    try:
        return moment(getattr(request, field)) if request.HasField(field) else None  # type: ignore[arg-type]
    except ValueError:
        faults.append((field, "must lie in the years 1 to 9999"))
        return None
