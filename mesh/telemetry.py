"""Telemetry of a process: set up by the standard OTEL_* settings, never in the way of a call or of the end.

Exports that fail are logged once and then at most once a minute.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from mesh.recovery import now

if TYPE_CHECKING:
    from mesh.config import Telemetry

FLUSH_SECONDS = 2.0
"""Longest time that the end of a process waits for its last spans."""

COMPLAIN_SECONDS = 60.0
"""Shortest time between two complaints about failed exports."""

EXPORT_LOGS = (
    "mesh.export",
    "opentelemetry.exporter.http.transport",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http._common",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "urllib3.connectionpool",
)
"""Loggers that complain when an export fails."""


class _Uses:
    """Servers and channels that are open in this process; the last to close flushes."""

    count = 0
    in_vain = False
    """Whether the last flush ran out of time: then the end of the process waits no more."""


def begin(settings: Telemetry) -> None:
    """Configure telemetry for a server or a channel; `end` belongs to it."""
    _Uses.count += 1
    configure(settings)


async def end() -> None:
    """The server or channel is closed; the last one exports what is waiting."""
    _Uses.count -= 1
    if _Uses.count == 0:
        await flush()


def configure(settings: Telemetry) -> None:
    """Set the tracer provider of this process, unless there is one already or nothing is to be exported.

    Without a provider, calls still carry the trace context that they came with.
    """
    if not settings.endpoint or _provider() is not None:
        return
    from mesh.export import Provider

    quieten()
    made = Provider(settings)
    trace.set_tracer_provider(made)
    atexit.register(_in_time, made.shutdown)


async def flush(seconds: float = FLUSH_SECONDS) -> None:
    """Export what is waiting, in at most so many seconds. A dead endpoint costs no more than that."""
    provider = _provider()
    if provider is None or not hasattr(provider, "force_flush"):
        return
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        provider.force_flush(int(seconds * 1000))
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="mesh-telemetry-flush", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            await done.wait()
        _Uses.in_vain = False
    except TimeoutError:
        _Uses.in_vain = True


class AtMostOften(logging.Filter):
    """Lets the first record pass, and then one in so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._next = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may pass."""
        if now() < self._next:
            return False
        self._next = now() + self._seconds
        return True


def quieten(seconds: float = COMPLAIN_SECONDS) -> None:
    """Make all exporters together complain at most so often."""
    limit = AtMostOften(seconds)
    for name in EXPORT_LOGS:
        logging.getLogger(name).addFilter(limit)


def _provider() -> Any | None:
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def _in_time(work: Any) -> None:
    """Run something in a thread that does not keep the process longer than a flush may take."""
    thread = threading.Thread(target=work, name="mesh-telemetry-shutdown", daemon=True)
    thread.start()
    thread.join(0.0 if _Uses.in_vain else FLUSH_SECONDS)
