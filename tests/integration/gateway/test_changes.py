"""The edge while the mesh changes: services come, go, disagree and die, and its own control process too."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator

import grpc
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from mesh.contract import Contract
from meshwright.check.v1.check_service_pb2 import Finding, ListFindingsRequest
from meshwright.check.v1.check_service_pb2_grpc import CheckServiceStub
from tests.fixtures.consul import RegistryProcess
from tests.fixtures.operator import operator_of
from tests.fixtures.shop import until
from tests.integration.gateway.harness import Edge, Process, eventually
from tests.integration.gateway.probe import SERVICE, contract
from tests.integration.gateway.test_policy import budget_is
from tests.integration.gateway.test_rest import THINGS, refusal


@pytest.fixture
def own_edge(dev_registry: RegistryProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An edge for one test, in front of nothing."""
    made = Edge(tmp_path_factory.mktemp("edge"), dev_registry.address)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def page() -> Iterator[http.server.ThreadingHTTPServer]:
    """A plain HTTP server that answers with the path it was asked for."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.path.encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def join_probe(edge: Edge, name: str) -> Process:
    process, port = edge.probe(name)
    edge.join("probe", name, port, contract())
    eventually(lambda: reached(edge) == name, f"{name} is reached", edge.logs)
    return process


def reached(edge: Edge) -> str:
    """Name of the instance that answered; empty when none did."""
    answer = edge.get(f"{THINGS}/a")
    return str(answer.json["metadata"]["instance"]) if answer.status == 200 else ""


def described(edge: Edge) -> set[str]:
    """Paths in the API's description."""
    return set(edge.get("/openapi.json").json["paths"])


def other_contract(
    path: str, file_name: str = "other.proto", package: str = "other.v1", message: str = "Any"
) -> Contract:
    """A service with one method, reached at a path."""
    file = FileDescriptorProto(name=file_name, package=package, dependency=["google/api/annotations.proto"])
    file.message_type.add(name=message)
    method = file.service.add(name="Other").method.add(
        name="Get", input_type=f".{package}.{message}", output_type=f".{package}.{message}"
    )
    method.options.Extensions[annotations_pb2.http].get = path
    files = [part for part in contract().files if part.name.startswith("google/")]
    return Contract.of([f"{package}.Other"], [*files, file])


def test_a_service_gets_its_rest_api_by_joining_and_streams_live_on(own_edge: Edge) -> None:
    assert own_edge.get(f"{THINGS}/a").status == 404
    join_probe(own_edge, "probe-1")
    with own_edge.stream(f"{THINGS}/ticks:watch") as (_, lines):
        assert lines.readline()
        own_edge.join("other", "other-1", 9, other_contract("/other"))
        eventually(lambda: own_edge.get("/other").status == 503, "the new API is there", own_edge.logs)
        assert all(lines.readline() for _ in range(20))


def test_a_service_without_instances_is_unavailable_and_comes_back(own_edge: Edge) -> None:
    join_probe(own_edge, "probe-1")
    own_edge.leave("probe-1")
    eventually(lambda: own_edge.get(f"{THINGS}/a").status == 503, "it is gone", own_edge.logs)
    message = refusal(own_edge.get(f"{THINGS}/a"), 503, 14, "NO_HEALTHY_INSTANCE")
    assert message == "no healthy instance of probe that may be called: see `mesh check`"
    join_probe(own_edge, "probe-2")


def test_a_killed_instance_costs_idempotent_calls_nothing(own_edge: Edge) -> None:
    first = join_probe(own_edge, "probe-1")
    join_probe(own_edge, "probe-2")
    first.kill()
    answers = [own_edge.get(f"{THINGS}/a") for _ in range(20)]
    assert {answer.status for answer in answers} == {200}


def test_calls_go_on_without_the_control_process_and_it_may_come_back(own_edge: Edge) -> None:
    join_probe(own_edge, "probe-1")
    with own_edge.stream(f"{THINGS}/ticks:watch") as (_, lines):
        own_edge.control.kill()
        assert {own_edge.get(f"{THINGS}/a").status for _ in range(20)} == {200}
        own_edge.control.start()
        join_probe(own_edge, "probe-2")
        assert {own_edge.get(f"{THINGS}/a").status for _ in range(20)} == {200}
        assert all(lines.readline() for _ in range(20))


async def test_the_last_good_policy_outlives_the_control_process(own_edge: Edge) -> None:
    await asyncio.to_thread(join_probe, own_edge, "probe-1")
    async with operator_of(own_edge.registry) as operator:
        names = [{"service": SERVICE}]
        await operator.config("probe", methodConfig=[{"name": names, "timeout": "4s"}])
        await until(budget_is(own_edge, 4))
        await until(lambda: _is_kept(own_edge, r'\"4s\"'))  # as JSON within JSON; a contract may hold the letters
        await operator.config("probe", methodConfig=[{"name": names, "timeout": "soon"}])
        await until(lambda: _was_said(own_edge, "'soon'"))
        await operator.config("probe", methodConfig=[{"name": [{**names[0], "method": "Gone"}], "timeout": "5s"}])
        await until(lambda: _was_said(own_edge, f"{SERVICE} has no method Gone"))
        own_edge.control.kill()
        own_edge.control.start()
        await asyncio.to_thread(join_probe, own_edge, "probe-2")
        assert await budget_is(own_edge, 4)()


async def _is_kept(edge: Edge, text: str) -> bool:
    return edge.paths.edge_catalog.exists() and text in edge.paths.edge_catalog.read_text()


async def _was_said(edge: Edge, text: str) -> bool:
    return text in edge.control.output()


def test_the_control_process_ends_cleanly(own_edge: Edge) -> None:
    join_probe(own_edge, "probe-1")
    assert own_edge.control.kill(15) == 0
    assert own_edge.get(f"{THINGS}/a").status == 200
    assert "Traceback" not in own_edge.control.output()


def test_a_contract_that_does_not_fit_harms_nobody(own_edge: Edge) -> None:
    join_probe(own_edge, "probe-1")
    own_edge.join("other", "other-1", 9, other_contract(THINGS))
    eventually(lambda: "no REST API for other.v1.Other" in own_edge.control.output(), "it is said", own_edge.logs)
    assert own_edge.get(THINGS).json["things"]
    own_edge.join("other", "other-1", 9, other_contract("/other/{nothing}"))
    eventually(lambda: "has no singular field nothing" in own_edge.control.output(), "it is said", own_edge.logs)
    own_edge.join("other", "other-1", 9, other_contract("/other", message="Thing", package="probe.v1"))
    eventually(lambda: "its probe.v1.Thing differs" in own_edge.control.output(), "it is said", own_edge.logs)
    assert own_edge.get(f"{THINGS}/a").status == 200
    told = findings(own_edge)
    assert ("gateway", True) in {(found.group, found.passed) for found in told}
    objection = "at the gateway, other: its probe.v1.Thing differs from that of service probe"
    assert ("descriptors", objection) in {(found.group, found.text) for found in told if not found.passed}


def findings(edge: Edge) -> list[Finding]:
    """What the control process tells `mesh check`."""
    with grpc.insecure_channel(f"unix:{edge.paths.gateway_reflection_socket}") as channel:
        return list(CheckServiceStub(channel).ListFindings(ListFindingsRequest(), timeout=20).findings)


def test_what_was_refused_takes_nothing_when_somebody_else_joins_or_its_rival_is_sick(own_edge: Edge) -> None:
    join_probe(own_edge, "probe-1")
    own_edge.join("evil", "evil-1", 9, other_contract(THINGS))
    eventually(lambda: "no REST API for other.v1.Other" in own_edge.control.output(), "it is said", own_edge.logs)
    own_edge.join("third", "third-1", 9, other_contract("/third", file_name="third.proto", package="third.v1"))
    eventually(lambda: own_edge.get("/third").status == 503, "the third is there", own_edge.logs)
    assert own_edge.get(THINGS).json["things"]
    own_edge.leave("probe-1")
    eventually(lambda: own_edge.get(f"{THINGS}/a").status == 503, "it is sick", own_edge.logs)
    assert "of probe" in refusal(own_edge.get(THINGS), 503, 14, "NO_HEALTHY_INSTANCE")


def test_a_successor_takes_over_when_the_last_instance_has_left(own_edge: Edge) -> None:
    own_edge.join("old", "old-1", 9, contract())
    eventually(lambda: own_edge.get(THINGS).status == 503, "the old one is there", own_edge.logs)
    _, port = own_edge.probe("new-1")
    own_edge.join("new", "new-1", port, contract())
    said = "already offered by service old"
    eventually(lambda: said in own_edge.control.output(), "the new one has to wait", own_edge.logs)
    own_edge.leave("old-1")
    own_edge.remove("old-1")
    eventually(lambda: reached(own_edge) == "new-1", "the new one has it", own_edge.logs)
    own_edge.join("old", "old-1", 9, contract())
    said = "already offered by service new"
    eventually(lambda: said in own_edge.control.output(), "the old one has to wait", own_edge.logs)
    assert reached(own_edge) == "new-1"


def test_a_name_that_could_be_the_edges_own_harms_nobody(own_edge: Edge) -> None:
    join_probe(own_edge, "probe-1")
    own_edge.join("edge/pages", "pages-1", 9)
    said = "'edge/pages' is no name of a service"
    eventually(lambda: said in own_edge.control.output(), "it is said", own_edge.logs)
    own_edge.join("other", "other-1", 9, other_contract("/other"))
    eventually(lambda: own_edge.get("/other").status == 503, "the edge goes on", own_edge.logs)


def test_plain_http_is_routed_by_its_prefixes(
    own_edge: Edge, page: http.server.ThreadingHTTPServer
) -> None:
    own_edge.join("web", "web-1", page.server_address[1], protocol="http", http_prefixes="/api/ /pages/")
    eventually(lambda: own_edge.get("/api/x?y=1").body == b"/api/x?y=1", "the page is reached", own_edge.logs)
    assert own_edge.get("/pages/").body == b"/pages/"
    assert own_edge.get("/pagesx").status == 404
    assert own_edge.get("/api/x", **{"content-encoding": "gzip", "x-foo-bin": "!!!"}).body == b"/api/x"


def test_the_description_changes_when_a_service_joins_and_when_it_leaves(own_edge: Edge) -> None:
    assert described(own_edge) == set()
    own_edge.join("other", "other-1", 9, other_contract("/other"))
    eventually(lambda: "/other" in described(own_edge), "the new service is described", own_edge.logs)
    before = own_edge.get("/openapi.json").headers["etag"]
    own_edge.leave("other-1")
    own_edge.remove("other-1")
    eventually(lambda: described(own_edge) == set(), "the service is forgotten", own_edge.logs)
    assert own_edge.get("/openapi.json").headers["etag"] != before


def test_without_the_control_process_there_is_no_page_but_calls_go_on(own_edge: Edge) -> None:
    join_probe(own_edge, "probe-1")
    own_edge.control.kill()
    for path in ("/docs", "/docs/docs.js", "/openapi.json"):
        message = refusal(own_edge.get(path), 503, 14, "CONTROL_PROCESS_DOWN")
        assert "calls go on without it" in message
    assert own_edge.get(f"{THINGS}/a").status == 200
    own_edge.control.start()
    eventually(lambda: own_edge.get("/docs").status == 200, "the page is back", own_edge.logs)
