"""Task results as the contract has them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh import Refused
from meshwright.status.v1 import task_result_pb2
from services.status.tasks import State, TaskFilter
from services.timestamps import moment, timestamp

if TYPE_CHECKING:
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
    """Which runs a request asks for. Raises `Refused` for filters that make no sense."""
    begin = moment(request.start_time_from) if request.HasField("start_time_from") else None
    end = moment(request.start_time_to) if request.HasField("start_time_to") else None
    if begin and end and begin >= end:
        raise Refused.of([("start_time_to", "must be after start_time_from")])
    return TaskFilter(task=request.task or None, state=_state(request.state), start_from=begin, start_to=end)


def _state(value: task_result_pb2.TaskResult.State.ValueType) -> State | None:
    try:
        return State(task_result_pb2.TaskResult.State.Name(value).removeprefix("STATE_")) if value else None
    except ValueError:
        raise Refused.of([("state", f"{value} is no state of a task's run")]) from None
