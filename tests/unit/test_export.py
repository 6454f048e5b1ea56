"""What the exporter of spans has to say about exports that fail."""

from __future__ import annotations

import logging

import pytest

from mesh import telemetry


def test_what_the_exporter_itself_complains_of_is_not_said_each_time(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("mesh.export")
    before = {name: list(logging.getLogger(name).filters) for name in telemetry.EXPORT_LOGS}
    telemetry.quieten(3600.0)
    try:
        for _ in range(3):
            log.error("spans cannot be exported")
    finally:
        for name, filters in before.items():
            logging.getLogger(name).filters[:] = filters
    assert [record.message for record in caplog.records] == ["spans cannot be exported"]
