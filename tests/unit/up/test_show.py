"""What `mesh ps` prints."""

from __future__ import annotations

import json

from mesh.up.show import process_json, process_table
from meshwright.launcher.v1 import launcher_service_pb2 as pb
from meshwright.sidecar.v1.sidecar_service_pb2 import Subscription

PROCESS = pb.Process(name="sidecar", pid=7, state=pb.Process.STATE_READY, restarts=1)
HELD = Subscription(
    node="order-1", user_agent="gRPC Go 1.44.0", type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster",
    resource_names=["sync", "status"], acked_version="0123456789abcdef", nack_count=2, last_nack="no such\n policy",
)


def test_processes_alone() -> None:
    assert process_table([PROCESS]) == (
        "NAME     PID  STATE  RESTARTS  ADDRESS\n"
        "sidecar  7    ready  1         -"
    )  # fmt: skip
    assert json.loads(process_json([PROCESS])) == [
        {"name": "sidecar", "pid": 7, "state": "ready", "restarts": 1, "address": ""}
    ]


def test_what_is_not_ready_has_a_note() -> None:
    hung = pb.Process(name="order-1", pid=8, state=pb.Process.STATE_STARTING, note="was ready, but does\nnot answer")
    assert process_table([PROCESS, hung]) == (
        "NAME     PID  STATE     RESTARTS  ADDRESS  NOTE\n"
        "sidecar  7    ready     1         -\n"
        "order-1  8    starting  0         -        was ready, but does not answer"
    )
    assert [row.get("note") for row in json.loads(process_json([PROCESS, hung]))] == [None, hung.note]


def test_wide_shows_what_each_client_holds_and_what_it_refused_last() -> None:
    wide = process_table([PROCESS], [HELD])
    assert wide.splitlines()[-2:] == [
        "CLIENT   AGENT           TYPE     NAMES        VERSION           NACKS  LAST NACK",
        "order-1  gRPC Go 1.44.0  Cluster  sync,status  0123456789abcdef  2      no such policy",
    ]
    shown = json.loads(process_json([PROCESS], [HELD]))
    assert shown["processes"] == json.loads(process_json([PROCESS]))
    assert shown["subscriptions"] == [{
        "node": "order-1", "agent": "gRPC Go 1.44.0", "type": "Cluster", "names": ["sync", "status"],
        "version": "0123456789abcdef", "nacks": 2, "last_nack": "no such\n policy",
    }]  # fmt: skip


def test_wide_without_clients_says_so() -> None:
    assert process_table([PROCESS], []).endswith("\n\nNo xDS client asks for anything.")


def test_a_client_that_asks_for_everything_has_a_star() -> None:
    asked = Subscription(node="edge", user_agent="envoy", type_url="Cluster")
    assert process_table([], [asked]).splitlines()[-1].split() == ["edge", "envoy", "Cluster", "*", "-", "0", "-"]
