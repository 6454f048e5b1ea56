"""REST through a real Envoy: what is mapped, and what is refused and how."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.load import REPORT_KEY
from tests.integration.gateway.harness import Answer, Edge, eventually
from tests.integration.gateway.probe import SERVICE, Probe

THINGS = "/probe/things"
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


def refusal(answer: Answer, status: int, code: int, reason: str) -> str:
    """Check the one error shape; its message."""
    body = answer.json
    assert (answer.status, body["code"]) == (status, code), body
    (info,) = [detail for detail in body["details"] if detail["@type"] == ERROR_INFO]
    assert (info["reason"], info["domain"]) == (reason, "meshwright")
    assert body["message"]
    return str(body["message"])


def big(size: int) -> str:
    """A JSON body of exactly so many bytes."""
    return '{"note":"' + "a" * (size - 11) + '"}'


def test_a_request_is_mapped_and_answered_in_lower_camel_case(edge: Edge) -> None:
    answer = edge.ask("POST", THINGS, '{"requestId":"r","quantity":2,"state":"STATE_READY"}').json
    assert answer["id"] == "r"
    assert answer["quantity"] == 2
    assert answer["state"] == "STATE_READY"
    assert answer["bigNumber"] == "9007199254740993"


@pytest.mark.parametrize("query", ["page_size=3&page_token=t", "pageSize=3&pageToken=t"])
def test_both_spellings_are_taken_in(edge: Edge, query: str) -> None:
    (thing,) = edge.get(f"{THINGS}?{query}").json["things"]
    assert (thing["quantity"], thing["note"]) == (3, "t")


def test_unknown_body_fields_are_ignored(edge: Edge) -> None:
    answer = edge.ask("POST", THINGS, '{"requestId":"r","nope":{"deep":[1]}}')
    assert (answer.status, answer.json["id"]) == (200, "r")


def test_a_body_of_any_content_type_is_json(edge: Edge) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}  # what curl -d says
    assert edge.ask("POST", THINGS, '{"requestId":"r"}', headers).json["id"] == "r"


def test_text_in_paths_may_be_any_utf8(edge: Edge) -> None:
    assert edge.get(f"{THINGS}/%C3%A9%E2%82%AC%F0%9F%98%80%2F%25").json["id"] == "é€😀/%"


def test_a_custom_verb_is_not_part_of_the_id(edge: Edge) -> None:
    assert edge.ask("POST", f"{THINGS}/a:cancel", "{}").json["id"] == "a"
    assert edge.get(f"{THINGS}/a:b").json["id"] == "a:b"


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ('{"requestId":', "Unexpected end of string"),
        ("[]", "must be a message"),
        ('{"quantity":"two"}', "quantity"),
        ('{"quantity":1.5}', "quantity"),
        ('{"quantity":99999999999}', "quantity"),
        ('{"state":"NOPE"}', "state"),
        ('{"state":"state_ready"}', "state"),
        ('{"requestId":"r"} and more', "end of input"),
        ('{"note":"\\ud800"}', "surrogate"),
        (b'{"note":"\xff\xfe"}', "UTF-8"),
        ('{"x":' + "[" * 5000 + "]" * 5000 + "}", "deep"),
    ],
)
def test_a_malformed_body_is_refused(edge: Edge, body: str | bytes, part: str) -> None:
    assert part in refusal(edge.ask("POST", THINGS, body), 400, 3, "MALFORMED_REQUEST")


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (f"{THINGS}?nope=1", "nope"),
        (f"{THINGS}?page_size=x", "page_size"),
        (f"{THINGS}?page_size=", "page_size"),
        (f"{THINGS}?%ff=1", "UTF-8"),
        (f"{THINGS}?page_token=%ff", "UTF-8"),
        (f"{THINGS}/%ff%fe", "UTF-8"),
        (f"{THINGS}/%ed%a0%80", "UTF-8"),
        (f"{THINGS}/%c0%80", "UTF-8"),
        (f"{THINGS}/%zz", "UTF-8"),
        (f"{THINGS}/a%00b", "NUL"),
    ],
)
def test_a_malformed_path_or_query_is_refused(edge: Edge, path: str, part: str) -> None:
    assert part in refusal(edge.get(path), 400, 3, "MALFORMED_REQUEST")


def test_a_body_that_contradicts_the_path_is_refused(edge: Edge) -> None:
    message = refusal(edge.ask("POST", f"{THINGS}/a:cancel", '{"id":"b"}'), 400, 3, "MALFORMED_REQUEST")
    assert "conflicting" in message


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"NONSENSE\r\n\r\n", "malformed"),
        (b"FOO /probe/things HTTP/1.1\r\nhost: x\r\n\r\n", "malformed"),
        (b"GET /probe/things HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n", "malformed"),
        (b"GET /probe/things HTTP/1.1\r\nhost: a b\r\n\r\n", "the Host is not valid"),
        (b"GET /probe/things HTTP/1.1\r\nconnection: close\r\n\r\n", "the request has no Host"),
        (b"GET /probe/things/\xc3\xa9 HTTP/1.1\r\nhost: x\r\n\r\n", "malformed"),
        (b"GET /probe/things?page_size=1#x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "fragment"),
        (b"POST /probe/things HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n", "malformed"),
        (b"POST /probe/things HTTP/1.1\r\nhost: x\r\ncontent-length: -2\r\n\r\n{}", "malformed"),
        (b"POST /probe/things HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", "malformed"),
        (
            b"POST /probe/things HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
            "malformed",
        ),
        (bytes.fromhex("16030100c8010000c40303") + bytes(200), "malformed"),
    ],
)
def test_what_is_not_http_is_refused_in_json(edge: Edge, data: bytes, part: str) -> None:
    head, _, body = edge.raw(data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json" in head
    parsed: dict[str, Any] = json.loads(body)
    assert parsed["code"] == 3
    assert part in parsed["message"]


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"GET /probe/things HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", b"WebSocket"),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\nconnection: close\r\n\r\n", b"CONNECT"),
    ],
)
def test_what_the_edge_does_not_do_is_said(edge: Edge, data: bytes, part: bytes) -> None:
    head, _, body = edge.raw(data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 501 ")
    assert part in body


def test_http_1_0_is_answered(edge: Edge) -> None:
    head, _, body = edge.raw(b"GET /probe/things/a HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    assert json.loads(body)["id"] == "a"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", f"{THINGS}/a", "GET"),
        ("POST", f"{THINGS}/a", "GET"),
        ("PUT", THINGS, "GET, POST"),
        ("OPTIONS", THINGS, "GET, POST"),
        ("GET", f"{THINGS}/a:cancel", "POST"),
        ("POST", f"{THINGS}/a:watch", "GET"),
    ],
)
def test_a_wrong_verb_is_told_the_right_ones(edge: Edge, method: str, path: str, allowed: str) -> None:
    answer = edge.ask(method, path)
    assert allowed in refusal(answer, 405, 12, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/nope", "/probe", "//probe/things", '/"quoted\\path"'])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_not_found(edge: Edge, method: str, path: str) -> None:
    assert "answers to" in refusal(edge.ask(method, path, "{"), 404, 5, "PATH_NOT_FOUND")


def test_a_body_over_4_mib_is_refused(edge: Edge) -> None:
    assert edge.ask("POST", THINGS, big(4 * 1024 * 1024 - 100)).status == 200
    assert "4 MiB" in refusal(edge.ask("POST", THINGS, big(5_000_000)), 413, 3, "BODY_TOO_LARGE")
    chunked = {"transfer-encoding": "chunked"}
    sent = b"4c4b40\r\n" + big(5_000_000).encode() + b"\r\n0\r\n\r\n"
    assert "4 MiB" in refusal(edge.ask("POST", THINGS, sent, chunked), 413, 3, "BODY_TOO_LARGE")


@pytest.mark.parametrize("headers", [{"x-long": "a" * 20_000}, {f"x-{n}": "1" for n in range(200)}])
def test_headers_that_are_too_large_or_too_many_are_refused(edge: Edge, headers: dict[str, str]) -> None:
    message = refusal(edge.get(f"{THINGS}/a", **headers), 431, 3, "HEADERS_TOO_LARGE")
    assert "16 KiB" in message
    assert "100" in message


def test_headers_that_mean_something_to_grpc_do_not_reach_the_service(edge: Edge) -> None:
    headers = {
        "x-foo-bin": "!!!", "grpc-trace-bin": "!!!", "grpc-encoding": "bogus", "grpc-accept-encoding": "bogus",
        "grpc-previous-rpc-attempts": "zz", "grpc-status": "5",
    }  # fmt: skip
    answer = edge.get(f"{THINGS}/a", **headers, **{"x-mine": "kept"})
    assert answer.status == 200
    assert not headers.keys() & answer.json["metadata"].keys()
    assert answer.json["metadata"]["x-mine"] == "kept"


@pytest.mark.parametrize("timeout", ["zz", "999999999999S"])
def test_a_timeout_that_is_none_is_as_good_as_no_timeout(edge: Edge, timeout: str) -> None:
    assert edge.get(f"{THINGS}/a", **{"grpc-timeout": timeout}).status == 200


def test_a_caller_may_set_a_deadline(edge: Edge) -> None:
    refusal(edge.get(f"{THINGS}/slow", **{"grpc-timeout": "100m"}), 504, 4, "DEADLINE_EXCEEDED")


@pytest.mark.parametrize("path", [f"{THINGS}/a", f"{THINGS}/missing", f"{THINGS}/plain"])
def test_answers_have_no_headers_of_grpc(edge: Edge, path: str) -> None:
    headers = edge.get(path).headers
    assert not [name for name in headers if name.startswith("grpc-") or name == REPORT_KEY]


def test_an_error_without_details_gets_them(edge: Edge) -> None:
    assert refusal(edge.get(f"{THINGS}/plain"), 409, 10, "ABORTED") == 'no details: "é" 100 %'


def test_a_grpc_path_takes_grpc_only(edge: Edge) -> None:
    for path in (f"/{SERVICE}/GetThing", f"/{SERVICE}/Nope", "/grpc.reflection.v1.ServerReflection/X"):
        message = refusal(edge.ask("POST", path, "{}"), 415, 3, "UNSUPPORTED_MEDIA_TYPE")
        assert "this is a gRPC path" in message


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc-web+proto"])
def test_what_is_no_post_is_no_grpc_call(edge: Edge, method: str, kind: str) -> None:
    answer = edge.ask(method, f"/{SERVICE}/GetThing", headers={"content-type": kind})
    assert answer.headers["grpc-status"] == "12"
    assert answer.headers["grpc-message"] == f"{method} is not allowed here; allowed: POST"


def test_a_grpc_call_need_not_say_that_it_takes_trailers(edge: Edge) -> None:
    request = Probe("caller").message("GetThingRequest")(id="a").SerializeToString()
    body = b"\0" + len(request).to_bytes(4, "big") + request
    answer = edge.ask("POST", f"/{SERVICE}/GetThing", body, {"content-type": "application/grpc-web+proto"})
    assert b"grpc-status:0" in answer.body
    native = edge.ask("POST", f"/{SERVICE}/GetThing", body, {"content-type": "application/grpc"})
    assert native.status == 200
    assert native.body[:1] == b"\0"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_grpc_call_to_a_rest_path_is_unimplemented(edge: Edge, method: str) -> None:
    answer = edge.ask(method, THINGS, headers={"content-type": "application/grpc"})
    assert (answer.status, answer.headers["grpc-status"]) == (200, "12")


def test_a_packed_body_is_refused(edge: Edge) -> None:
    answer = edge.ask("POST", THINGS, b"\x1f\x8b", {"content-encoding": "gzip"})
    assert "Content-Encoding" in refusal(answer, 415, 3, "UNSUPPORTED_MEDIA_TYPE")
    assert edge.ask("POST", THINGS, "{}", {"content-encoding": "identity"}).status == 200


def test_callers_cannot_pass_a_grpc_call_for_rest(edge: Edge) -> None:
    headers = {"content-type": "application/grpc", "x-envoy-original-method": "GET"}
    assert edge.ask("POST", "/nope.Service/Nope", headers=headers).headers["grpc-status"] == "12"


def test_a_large_answer_is_passed_on(edge: Edge) -> None:
    assert len(edge.get(f"{THINGS}/huge").json["note"]) == 3_000_000


def test_an_error_of_a_service_keeps_its_details(edge: Edge) -> None:
    answer = edge.get(f"{THINGS}/missing")
    assert refusal(answer, 404, 5, "THING_NOT_FOUND") == 'thing "missing"\ndoes not exist: é'
    kinds = [detail["@type"].rsplit(".", 1)[1] for detail in answer.json["details"]]
    assert kinds == ["ErrorInfo", "BadRequest"]


def test_a_call_past_its_deadline_is_ended(edge: Edge) -> None:
    answer = edge.get(f"{THINGS}/slow")  # by Envoy, or by the server's gRPC itself: whoever is first
    assert (answer.status, answer.json["code"]) == (504, 4)


def test_a_service_learns_how_much_time_is_left(edge: Edge) -> None:
    assert 1.0 < edge.get(f"{THINGS}/a").json["budgetSeconds"] <= 1.5


def said(edge: Edge, word: str) -> int:
    return sum(probe.output().count(word) for probe in edge.probes)


def test_only_idempotent_calls_are_sent_again(edge: Edge) -> None:
    attempts, creates = said(edge, "attempt"), said(edge, "create")
    assert edge.get(f"{THINGS}/down").status == 503
    assert edge.ask("POST", THINGS, '{"note":"down"}').status == 503
    eventually(lambda: said(edge, "create") == creates + 1, "one attempt to create")
    assert said(edge, "attempt") == attempts + 3


def test_callers_cannot_steer_the_edge_by_its_own_headers(edge: Edge) -> None:
    creates = said(edge, "create")
    headers = {"x-envoy-retry-grpc-on": "unavailable", "x-envoy-max-retries": "3", "x-envoy-internal": "true"}
    assert edge.ask("POST", THINGS, '{"note":"down"}', headers).status == 503
    eventually(lambda: said(edge, "create") == creates + 1, "one attempt to create")
    seen = edge.get(f"{THINGS}/a", **headers).json["metadata"]
    assert not headers.keys() & seen.keys()
    assert seen["x-envoy-attempt-count"] == "1"


def test_the_caller_keeps_its_trace_and_request_id(edge: Edge) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-request-id": "mine"}
    seen = edge.get(f"{THINGS}/a", **headers).json["metadata"]
    assert seen["traceparent"].split("-")[1] == trace
    assert seen["x-request-id"] == "mine"
