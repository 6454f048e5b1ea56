"""`/metrics` of a process, for Prometheus: served by a thread, so that it answers while the event loop is blocked."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from mesh import loop_lag, targets
from mesh.config import Variables
from mesh.paths import Paths
from mesh.ports import LOOPBACK, with_port

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

REQUEST_SECONDS = 2.0
"""How long one request may take to arrive or to be read; the next one waits for it."""

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a process of the mesh itself shows its metrics."""

    host: str = LOOPBACK
    """IP address to listen on, which others are told too."""
    port: int | None = None
    """None for a free one, 0 for no metrics at all."""


ANY = Place()
"""On this host alone, at any port."""
NOWHERE = Place(port=0)


@contextmanager
def serving(host: str = LOOPBACK, port: int = 0) -> Iterator[int]:
    """Serve while the context is open, and watch the running loop; the port, 0 for none.

    A port that cannot be had costs the metrics, not the process.
    """
    try:
        page = _Page(host, port)
    except OSError as error:
        _log.warning("no metrics: cannot listen on %s: %s", with_port(host, port), error.strerror)
        yield 0
        return
    thread = threading.Thread(target=page.run, name="metrics", daemon=True)
    thread.start()
    try:
        with loop_lag.watched():
            yield page.server_port
    finally:
        page.end()
        thread.join(REQUEST_SECONDS)


@contextmanager
def listed(run: Path | None, job: str, place: Place = ANY) -> Iterator[None]:
    """Serve, and have a file in the run folder that tells Prometheus where; the sidecar tells the registry.

    For the mesh's own processes. Without a folder there is no file. One that a killed process leaves is taken away by
    the sidecar.
    """
    if place.port == 0:
        yield
        return
    with serving(place.host, place.port or 0) as found:
        address = with_port(place.host, found)
        _log.debug("metrics at http://%s/metrics", address)
        if not (found and run and run.is_dir()):
            yield
            return
        with targets.listed(run, targets.Target(address=address, labels={"job": job})):
            yield


def of_process(job: str, environ: Mapping[str, str]) -> AbstractContextManager[None]:
    """`listed`, as METRICS_HOST, METRICS_PORT and MESH_DIR say. Raises `InvalidConfig` for what is no port."""
    run = Paths.locate(environ).run if environ.get("MESH_DIR") else None
    return listed(run, job, place_of(environ))


def place_of(environ: Mapping[str, str]) -> Place:
    """METRICS_HOST and METRICS_PORT. Raises `InvalidConfig` for what is no port."""
    variables = Variables(environ)
    host, port = variables.text("METRICS_HOST", LOOPBACK), variables.integer("METRICS_PORT", -1, maximum=65535)
    variables.check()
    return Place(host, None if port < 0 else port)


class _Page(WSGIServer):
    """Answers one request after the other."""

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._ending = False
        super().__init__((host, port), _Quiet)
        self.set_app(_only(make_wsgi_app(), "/metrics"))

    def server_bind(self) -> None:
        """As in `WSGIServer`, but without asking a name server who this host is."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]
        self.setup_environ()

    def run(self) -> None:
        """Answer until `end`."""
        while not self._ending:
            self.handle_request()

    def end(self) -> None:
        """Close the port, which wakes `run`."""
        self._ending = True
        self.socket.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or is too slow, is no news."""
        _log.debug("%s was not answered", client_address, exc_info=True)


class _Quiet(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


def _only(app: Callable[..., Any], path: str) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    """An application that answers one path."""

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == path:
            return app(environ, start)  # type: ignore[no-any-return]
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [f"there is nothing but {path} here\n".encode()]

    return answer
