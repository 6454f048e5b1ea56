"""A third party to pull users from: `scim2-server`, filled with made-up people.

Reads `PORT` (bound on 127.0.0.1), `SCIM_TOKEN` (the bearer token to ask for; none unless given) and `SCIM_USERS`
(how many people; 2500 unless given). The same people at each start.
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from scim2_models import Email, Meta, Name, PhoneNumber, ScimProvider, User
from scim2_server.memory import InMemoryStorage, utcnow
from scim2_server.service import ScimService
from scim2_server.testserver.application import BearerTokenApplication
from scim2_server.utils import (
    load_default_resource_types,
    load_default_schemas,
    load_default_service_provider_config,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

USERS = 2500
"""How many people there are unless told."""

_FIRST = (
    "Ada", "Alan", "Annie", "Barbara", "Carl", "Dorothy", "Edsger", "Emmy", "Frances", "Grace", "Hedy", "Ida", "Jean",
    "Katherine", "Leslie", "Margaret", "Niklaus", "Radia", "Sophie", "Tim",
)  # fmt: skip
_LAST = (
    "Abe", "Bartik", "Clarke", "Dijkstra", "Easley", "Franklin", "Germain", "Hopper", "Iverson", "Johnson", "Kovács",
    "Lamport", "Mørk", "Noether", "Özil", "Perlman", "Ruiz", "Sato", "Turing", "Wirth",
)  # fmt: skip
_NAMESPACE = uuid.UUID("6f1d2c1e-54b0-4c27-9d4a-0a6a3f3b7c11")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is the base class's)
        """Requests are not logged; they show as spans of their callers."""


def person(number: int) -> User[Any]:
    """The person with this number; one in 25 is inactive, one in ten has no phone."""
    first = _FIRST[number % len(_FIRST)]
    last = _LAST[number // len(_FIRST) % len(_LAST)]
    handle = f"user{number:05d}"
    now = utcnow()
    return User(
        id=uuid.uuid5(_NAMESPACE, handle).hex,
        external_id=f"E{number:05d}",
        user_name=handle,
        display_name=f"{first} {last}",
        name=Name(given_name=first, family_name=last),
        active=number % 25 != 0,
        emails=[
            Email(value=f"{handle}@home.example", type=Email.Type.home),
            Email(value=f"{handle}@corp.example", type=Email.Type.work, primary=True),
        ],
        phone_numbers=[PhoneNumber(value=f"+1-555-{number:07d}", type=PhoneNumber.Type.work)] if number % 10 else None,
        meta=Meta(resource_type="User", created=now, last_modified=now, version=f'W/"{number}"'),
    )


def application(count: int, token: str = "") -> BearerTokenApplication:
    """A SCIM 2.0 application with so many people."""
    provider = ScimProvider.from_discovery(
        load_default_schemas().values(),
        load_default_resource_types().values(),
        config=load_default_service_provider_config(),
    )
    storage = InMemoryStorage()
    storage.resources = [person(number) for number in range(1, count + 1)]
    service = ScimService(provider, secret=uuid.uuid4().hex)
    return BearerTokenApplication(storage, provider, service, bearer_tokens=[token] if token else [])


def main(environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    app = application(int(environ.get("SCIM_USERS", USERS)), environ.get("SCIM_TOKEN", ""))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with make_server("127.0.0.1", int(environ["PORT"]), app, server_class=_Server, handler_class=_Quiet) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
