"""ListTaskResults: filters and pages, through a real server on a real Postgres."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mesh import Code
from meshwright.status.v1.status_service_pb2 import ListTaskResultsRequest
from meshwright.status.v1.status_service_pb2_grpc import StatusServiceStub, add_StatusServiceServicer_to_server
from meshwright.status.v1.task_result_pb2 import TaskResult
from services.status.servicer import StatusServicer
from services.status.store import TaskStore
from services.status.tasks import State
from services.timestamps import timestamp
from tests.fixtures.services import refusal, serving

if TYPE_CHECKING:
    from meshwright.status.v1.status_service_pb2_grpc import StatusServiceAsyncStub
    from services.database import Database

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
async def stub(stored: Database) -> AsyncIterator[StatusServiceAsyncStub]:
    """The status service with six runs, an hour apart: `even` succeeded, `odd` failed, and the last still runs."""
    store = TaskStore(stored, "status-1")
    for number in range(6):
        run_id = uuid.uuid4()
        time = BEGIN + number * HOUR
        await store.begin(run_id, ("even", "odd")[number % 2], time)
        if number < 5:
            await store.end(run_id, (State.SUCCEEDED, State.FAILED)[number % 2], error=str(number))
        await stored.fetch("UPDATE status.task_results SET start_time = $2 WHERE id = $1", run_id, time)
    nothing: Any = None
    servicer = StatusServicer(nothing, nothing, store, nothing)
    async with serving(partial(add_StatusServiceServicer_to_server, servicer)) as channel:
        yield StatusServiceStub(channel)


async def hours(stub: StatusServiceAsyncStub, **wanted: Any) -> list[int]:
    """At which hours the runs began that a list has, over all its pages."""
    found: list[int] = []
    token = ""
    while True:
        page = await stub.ListTaskResults(ListTaskResultsRequest(page_token=token, **wanted))
        found += [result.start_time.ToDatetime().hour for result in page.task_results]
        assert len(page.task_results) <= wanted.get("page_size", 50)
        token = page.next_page_token
        if not token:
            return found


async def test_filters_and_pages(stub: StatusServiceAsyncStub) -> None:
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [5, 4, 3, 2, 1, 0]),
        ({"page_size": 4}, [5, 4, 3, 2, 1, 0]),
        ({"page_size": 1, "task": "odd"}, [5, 3, 1]),
        ({"state": TaskResult.STATE_FAILED}, [3, 1]),
        ({"state": TaskResult.STATE_RUNNING, "task": "even"}, []),
        ({"start_time_from": timestamp(BEGIN + 2 * HOUR), "page_size": 2}, [5, 4, 3, 2]),
        ({"start_time_to": timestamp(BEGIN + 2 * HOUR)}, [1, 0]),
        ({"start_time_from": timestamp(BEGIN + HOUR), "start_time_to": timestamp(BEGIN + 3 * HOUR)}, [2, 1]),
        ({"task": "nothing"}, []),
    ]
    for wanted, expected in cases:
        assert await hours(stub, **wanted) == expected, wanted


async def test_a_result_says_all_that_is_known(stub: StatusServiceAsyncStub) -> None:
    page = await stub.ListTaskResults(ListTaskResultsRequest())
    running, ended = page.task_results[0], page.task_results[2]
    assert (running.state, running.HasField("end_time"), running.instance) == (1, False, "status-1")
    assert (ended.task, ended.state, ended.error) == ("odd", TaskResult.STATE_FAILED, "3")
    assert ended.schedule_time == timestamp(BEGIN + 3 * HOUR)
    assert ended.HasField("end_time")


async def test_what_makes_no_sense_is_refused(stub: StatusServiceAsyncStub) -> None:
    cases = [
        (ListTaskResultsRequest(page_size=-1), "page_size"),
        (ListTaskResultsRequest(page_token="x"), "page_token"),
        (ListTaskResultsRequest(task="x" * 81), "task"),
        (ListTaskResultsRequest(state=99), "state"),  # type: ignore[arg-type]
        (ListTaskResultsRequest(start_time_from=Timestamp(seconds=2**62)), "start_time_from"),
        (ListTaskResultsRequest(start_time_to=Timestamp(nanos=-1)), "start_time_to"),
        (ListTaskResultsRequest(start_time_from=timestamp(BEGIN), start_time_to=timestamp(BEGIN)), "start_time_to"),
    ]
    for request, field in cases:
        refused = await refusal(stub.ListTaskResults(request))
        assert refused.code is Code.INVALID_ARGUMENT, request
        assert [name for name, _ in refused.violations] == [field]


async def test_a_token_belongs_to_its_filters(stub: StatusServiceAsyncStub) -> None:
    page = await stub.ListTaskResults(ListTaskResultsRequest(page_size=1, task="odd"))
    other = ListTaskResultsRequest(page_size=1, task="even", page_token=page.next_page_token)
    assert (await refusal(stub.ListTaskResults(other))).reason == "INVALID_PAGE_TOKEN"
