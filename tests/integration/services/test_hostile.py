"""Whatever a caller sends to any method of the three services, it gets an answer that the contract names."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mesh import Code
from tests.fixtures.every_service import METHODS, Every, documented, every, play

__all__ = ["every"]

EXAMPLES = 40


@settings(
    max_examples=EXAMPLES, phases=[Phase.generate], deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(data=st.data())
async def test_any_request_gets_a_documented_answer(every: Every, data: st.DataObject) -> None:
    await play(every, data.draw(every.calls()))


def test_no_method_documents_that_it_does_not_know_what_went_wrong() -> None:
    for method in METHODS:
        assert not documented(method) & {Code.UNKNOWN, Code.INTERNAL, Code.DATA_LOSS}, method.full_name
