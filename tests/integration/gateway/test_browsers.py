"""What browsers ask of the edge: CORS for REST and gRPC-Web, and gRPC-Web's two encodings on the wire."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator

import pytest

from tests.fixtures.consul import RegistryProcess
from tests.integration.gateway.harness import Answer, Edge, eventually
from tests.integration.gateway.probe import SERVICE, Probe
from tests.integration.gateway.test_rest import THINGS

PROBE = Probe("caller")
HERE, ELSEWHERE = "http://localhost:3000", "https://elsewhere.example"
BINARY, TEXT = "application/grpc-web+proto", "application/grpc-web-text"
PLACES = [THINGS, f"{THINGS}/a", f"{THINGS}/a:cancel", f"/{SERVICE}/GetThing", "/openapi.json"]


def preflight(edge: Edge, path: str, origin: str) -> Answer:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-grpc-web,mine"}
    return edge.ask("OPTIONS", path, headers={"origin": origin, **asked})


@pytest.mark.parametrize("path", PLACES)
def test_a_preflight_from_this_machine_is_allowed(edge: Edge, path: str) -> None:
    answer = preflight(edge, path, HERE)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == HERE
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "*, authorization"
    assert answer.headers["access-control-max-age"] == "3600"


@pytest.mark.parametrize("path", PLACES)
def test_a_preflight_from_elsewhere_is_not_and_reaches_nobody(edge: Edge, path: str) -> None:
    assert "access-control-allow-origin" not in preflight(edge, path, ELSEWHERE).headers


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True),
        ("http://localhost:5173", True),
        ("https://localhost:8443", True),
        ("http://127.0.0.1:3000", True),
        ("http://[::1]:3000", True),
        ("http://localhost.elsewhere.example", False),
        ("http://localhost:3000.elsewhere.example", False),
        ("http://elsewhere.example/http://localhost", False),
        ("null", False),
    ],
)
def test_origins(edge: Edge, origin: str, allowed: bool) -> None:
    answer = edge.get(f"{THINGS}/a", origin=origin)
    assert answer.status == 200
    assert (answer.headers.get("access-control-allow-origin") == origin) is allowed


@pytest.mark.parametrize("path", [f"{THINGS}/missing", f"{THINGS}?nope=1", f"{THINGS}/a:watch"])
def test_pages_can_read_errors_and_streams(edge: Edge, path: str) -> None:
    answer = edge.get(path, origin=HERE)
    assert answer.headers["access-control-allow-origin"] == HERE
    assert answer.headers["access-control-expose-headers"] == "*"


def test_an_origin_changes_nothing_for_what_is_not_allowed(edge: Edge) -> None:
    assert edge.ask("DELETE", THINGS, headers={"origin": HERE}).status == 405
    assert edge.ask("OPTIONS", THINGS).status == 405


@pytest.fixture
def other_edge(dev_registry: RegistryProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An edge that is told whose pages may call."""
    origins = {"GATEWAY_CORS_ORIGINS": f"{ELSEWHERE}, http://app.example:*"}
    made = Edge(tmp_path_factory.mktemp("edge"), dev_registry.address, origins)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_origins_can_be_chosen(other_edge: Edge) -> None:
    def allowed(origin: str) -> bool:
        return "access-control-allow-origin" in preflight(other_edge, "/openapi.json", origin).headers

    assert [allowed(origin) for origin in (ELSEWHERE, "http://app.example:99", HERE)] == [True, True, False]


def call(edge: Edge, method: str, thing: str, content_type: str) -> tuple[Answer, bytes]:
    """A gRPC-Web call; the answer, and its body as binary."""
    message = PROBE.message("GetThingRequest")(id=thing).SerializeToString()
    body = struct.pack(">BI", 0, len(message)) + message
    text = content_type == TEXT
    sent = base64.b64encode(body) if text else body
    headers = {"content-type": content_type, "accept": content_type, "x-grpc-web": "1", "origin": HERE}
    answer = edge.ask("POST", f"/{SERVICE}/{method}", sent, headers)
    assert answer.headers["access-control-allow-origin"] == HERE
    return answer, b"".join(_decoded(answer.body)) if text else answer.body


def _decoded(text: bytes) -> Iterator[bytes]:
    """Base64 that may be padded in the middle, where one flush ended."""
    for start in range(0, len(text), 4):
        yield base64.b64decode(text[start : start + 4])


def frames(body: bytes) -> Iterator[tuple[int, bytes]]:
    while body:
        flags, length = struct.unpack(">BI", body[:5])
        yield flags, body[5 : 5 + length]
        body = body[5 + length :]


@pytest.mark.parametrize("content_type", [BINARY, TEXT])
@pytest.mark.parametrize(("method", "messages"), [("GetThing", 1), ("WatchThing", 2)])
def test_messages_and_trailers(edge: Edge, content_type: str, method: str, messages: int) -> None:
    answer, body = call(edge, method, "a", content_type)
    assert answer.headers["content-type"].startswith(content_type)
    *things, (flags, trailers) = frames(body)
    assert [PROBE.message("Thing").FromString(data).id for _, data in things] == ["a"] * messages
    assert flags == 0x80
    assert b"grpc-status:0" in trailers


@pytest.mark.parametrize("content_type", [BINARY, TEXT])
def test_an_error_has_its_details(edge: Edge, content_type: str) -> None:
    answer, _ = call(edge, "GetThing", "missing", content_type)
    assert answer.headers["grpc-status"] == "5"
    assert b"THING_NOT_FOUND" in base64.b64decode(answer.headers["grpc-status-details-bin"] + "==")


def test_a_page_that_goes_cancels_its_stream(edge: Edge) -> None:
    def ended() -> int:
        return sum(probe.output().count("watch of forever ended") for probe in edge.probes)

    before = ended()
    message = PROBE.message("GetThingRequest")(id="forever").SerializeToString()
    body = struct.pack(">BI", 0, len(message)) + message
    head = f"POST /{SERVICE}/WatchThing HTTP/1.1", "host: x", f"content-type: {BINARY}", f"content-length: {len(body)}"
    with edge.connection() as page:
        page.sendall("\r\n".join((*head, "", "")).encode() + body)
        assert page.recv(1)
    eventually(lambda: ended() == before + 1, "the call is cancelled", edge.logs)
