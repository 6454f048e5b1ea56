"""The protocol of one xDS stream, message by message: who is sent what, when, and never again."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from mesh.policy import Balance, Balancing
from mesh.xds.dialect import CORE, ENVOY, GO, GO_1_72, Dialect, dialect_of, warning
from mesh.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, Snapshot, pack, snapshot
from mesh.xds.stream import Stream
from mesh.xds.subscription import Answer

KINDS = {CLUSTER: Cluster, ENDPOINT: ClusterLoadAssignment, LISTENER: Listener, ROUTE: RouteConfiguration}


def holding(*messages: Message, pending: Iterable[str] = ()) -> Snapshot:
    return snapshot([pack(message) for message in messages], pending)


def cluster(name: str, stat: str = "") -> Cluster:
    return Cluster(name=name, alt_stat_name=stat)


def endpoints(name: str, weight: int = 1) -> ClusterLoadAssignment:
    made = ClusterLoadAssignment(cluster_name=name)
    made.endpoints.add().load_balancing_weight.value = weight
    return made


def routes(name: str, target: str) -> RouteConfiguration:
    made = RouteConfiguration(name=name)
    made.virtual_hosts.add(name=name, domains=["*"]).routes.add().route.cluster = target
    return made


class Client:
    """The other end: asks, and answers what it is sent."""

    def __init__(self, user_agent: str = "gRPC C-core linux Python") -> None:
        self.stream = Stream()
        self.user_agent = user_agent
        self.names: dict[str, list[str]] = {}

    def ask(self, type_url: str, *names: str, version: str = "", nonce: str = "") -> Answer:
        self.names[type_url] = list(names)
        request = DiscoveryRequest(
            type_url=type_url, resource_names=names, version_info=version, response_nonce=nonce,
            node=Node(id="test", user_agent_name=self.user_agent),
        )
        return self.stream.receive(request)[1]

    def sent(self, held: Snapshot) -> list[tuple[str, list[str]]]:
        """What is sent now: short type and names; all of it is taken."""
        return [self.take(response) for response in self.stream.responses(held)]

    def take(self, response: DiscoveryResponse) -> tuple[str, list[str]]:
        self.ask(response.type_url, *self.names[response.type_url], version=response.version_info,
                 nonce=response.nonce)
        return describe(response)

    def refuse(self, response: DiscoveryResponse, why: str) -> Answer:
        request = DiscoveryRequest(
            type_url=response.type_url, resource_names=self.names[response.type_url],
            response_nonce=response.nonce, error_detail=Status(code=3, message=why),
        )
        return self.stream.receive(request)[1]


def describe(response: DiscoveryResponse) -> tuple[str, list[str]]:
    kind = KINDS[response.type_url]
    messages = [kind.FromString(resource.value) for resource in response.resources]
    return kind.__name__, [getattr(m, "cluster_name", "") or getattr(m, "name", "") for m in messages]


def test_the_first_request_is_answered_and_the_ack_is_not() -> None:
    client, held = Client(), holding(cluster("a"), cluster("b"))
    assert client.ask(CLUSTER, "a") is Answer.FIRST
    assert client.sent(held) == [("Cluster", ["a"])]
    assert client.sent(held) == []
    assert client.stream.subscriptions[CLUSTER].settled


@pytest.mark.parametrize(
    ("agent", "version", "dialect"),
    [("gRPC Go", "1.44.0", GO), ("gRPC Go", "1.72.1", GO_1_72), ("gRPC Go", "2.0", GO_1_72), ("gRPC Go", "dev", GO),
     ("gRPC C-core linux", "1.85.1", CORE), ("unknown", "9.9", GO)],
)  # fmt: skip
def test_the_version_counts_as_well(agent: str, version: str, dialect: Dialect) -> None:
    assert dialect_of(agent, version) is dialect


def test_what_a_client_does_not_take_is_told() -> None:
    wanted = Balancing(kind=Balance.LEAST_REQUEST)
    assert warning(wanted, CORE) == "C-core does not take least_request: round_robin is the nearest"
    assert [warning(wanted, dialect) for dialect in (GO_1_72, ENVOY)] == ["", ""]
    assert not warning(Balancing(kind=Balance.RANDOM), CORE)  # ring_hash without a header is just that


def test_the_dialect_follows_from_the_user_agent() -> None:
    for agent, dialect in (("gRPC C-core linux Python", CORE), ("gRPC Go", GO), ("envoy", ENVOY), ("other", GO)):
        client = Client(agent)
        client.ask(CLUSTER)
        assert client.stream.dialect is dialect


def test_only_what_changed_is_sent_for_endpoints() -> None:
    client = Client()
    client.ask(ENDPOINT, "a", "b")
    assert client.sent(holding(endpoints("a"), endpoints("b"))) == [("ClusterLoadAssignment", ["a", "b"])]
    assert client.sent(holding(endpoints("a"), endpoints("b", 2))) == [("ClusterLoadAssignment", ["b"])]


def test_all_clusters_are_sent_when_one_changed_because_one_left_out_is_removed() -> None:
    client = Client("envoy")
    client.ask(CLUSTER)
    client.sent(holding(cluster("a"), cluster("b")))
    assert client.sent(holding(cluster("a"), cluster("b", "new"))) == [("Cluster", ["a", "b"])]


def test_envoy_is_sent_the_endpoints_of_a_cluster_that_changed_again() -> None:
    for agent, again in (("envoy", [("ClusterLoadAssignment", ["a"])]), ("gRPC Go", [])):
        client = Client(agent)
        client.ask(CLUSTER, "a", "b")
        client.ask(ENDPOINT, "a", "b")
        client.sent(holding(cluster("a"), cluster("b"), endpoints("a"), endpoints("b")))
        changed = holding(cluster("a", "new"), cluster("b"), endpoints("a"), endpoints("b"))
        assert client.sent(changed) == [("Cluster", ["a", "b"]), *again]
        assert client.sent(changed) == []


def test_envoy_that_comes_back_to_a_changed_cluster_is_sent_its_endpoints() -> None:
    client, held = Client("envoy"), holding(cluster("a"), endpoints("a"))
    client.ask(CLUSTER)
    client.ask(ENDPOINT, "a")
    versions = {response.type_url: response.version_info for response in client.stream.responses(held)}
    back = Client("envoy")
    back.ask(CLUSTER, version=versions[CLUSTER])
    back.ask(ENDPOINT, "a", version=versions[ENDPOINT])
    assert back.sent(holding(cluster("a", "new"), endpoints("a"))) == [
        ("Cluster", ["a"]), ("ClusterLoadAssignment", ["a"])
    ]  # fmt: skip


def test_envoy_that_asks_for_endpoints_after_a_cluster_changed_is_sent_them_though_it_holds_them() -> None:
    client, held = Client("envoy"), holding(cluster("a"), endpoints("a"))
    client.ask(CLUSTER)
    client.ask(ENDPOINT, "a")
    versions = {response.type_url: response.version_info for response in client.stream.responses(held)}
    back, changed = Client("envoy"), holding(cluster("a", "new"), endpoints("a"))
    back.ask(CLUSTER, version=versions[CLUSTER])
    assert back.sent(changed) == [("Cluster", ["a"])]
    back.ask(ENDPOINT, "a", version=versions[ENDPOINT])
    assert back.sent(changed) == [("ClusterLoadAssignment", ["a"])]
    assert back.sent(changed) == []


def test_a_version_is_the_hash_of_what_is_sent() -> None:
    versions = []
    for _ in range(2):
        client = Client()
        client.ask(CLUSTER, "a", "b")
        versions += [r.version_info for r in client.stream.responses(holding(cluster("b"), cluster("a")))]
    assert versions[0] == versions[1]


def test_a_refused_version_is_counted_and_never_sent_again() -> None:
    client, held = Client(), holding(cluster("a"))
    client.ask(CLUSTER, "a")
    (response,) = client.stream.responses(held)
    assert client.refuse(response, "no such policy") is Answer.NACK
    subscription = client.stream.subscriptions[CLUSTER]
    assert (subscription.nack_count, subscription.last_nack, subscription.acked_version) == (1, "no such policy", "")
    assert client.sent(held) == []
    assert client.sent(holding(cluster("a", "mended"))) == [("Cluster", ["a"])]
    assert subscription.settled


def test_a_version_that_was_refused_is_not_sent_again_when_it_comes_back_later() -> None:
    client = Client()
    client.ask(CLUSTER, "a")
    client.sent(holding(cluster("a", "good")))
    (response,) = client.stream.responses(holding(cluster("a", "bad")))
    client.refuse(response, "no")
    for stat in ("good", "bad", "good", "bad"):
        assert client.sent(holding(cluster("a", stat))) == []
    assert client.sent(holding(cluster("a", "better"))) == [("Cluster", ["a"])]


@pytest.mark.parametrize("everything", [False, True])
def test_a_version_of_two_that_was_refused_is_not_sent_again_when_it_comes_back_later(everything: bool) -> None:
    client = Client("envoy")
    client.ask(CLUSTER, *() if everything else ("a", "b"))
    good, bad = (holding(cluster("a", stat), cluster("b", stat)) for stat in ("good", "bad"))
    client.sent(good)
    (response,) = client.stream.responses(bad)
    client.refuse(response, "no")
    assert client.sent(bad) == []
    assert client.sent(good) == [("Cluster", ["a", "b"])], "it may have taken one of the two"
    assert client.sent(bad) == []
    assert not client.stream.subscriptions[CLUSTER].settled
    assert client.sent(good) == []
    assert client.sent(holding(cluster("a", "bad"), cluster("b", "good"))) == [("Cluster", ["a", "b"])]
    assert client.stream.subscriptions[CLUSTER].settled


def test_one_of_two_endpoints_that_were_refused_together_is_not_taken_for_held() -> None:
    client = Client()
    client.ask(ENDPOINT, "a", "b", "c")
    (response,) = client.stream.responses(holding(endpoints("a"), endpoints("b")))
    client.refuse(response, "no")
    assert client.sent(holding(endpoints("a"), endpoints("b"), endpoints("c"))) == [("ClusterLoadAssignment", ["c"])]
    assert client.stream.subscriptions[ENDPOINT].taken.keys() == {"c"}


def test_an_answer_is_about_all_that_was_sent_before_it() -> None:
    client = Client("envoy")
    client.ask(CLUSTER)
    client.ask(ENDPOINT, "a", "b")
    client.ask(ROUTE, "r")
    clusters, held = (cluster("a"), cluster("b")), (endpoints("a"), endpoints("b"), routes("r", "a"))
    client.sent(holding(*clusters))
    early, late = (next(iter(client.stream.responses(holding(*clusters, *held[:n])))) for n in (1, 2))
    client.take(early)
    client.take(late)
    assert client.stream.subscriptions[ENDPOINT].taken.keys() == {"a", "b"}
    assert client.sent(holding(*clusters, *held)) == [("RouteConfiguration", ["r"])]


def test_one_that_changes_beside_two_that_were_refused_is_not_blamed_for_them() -> None:
    client = Client("envoy")
    client.ask(CLUSTER)
    client.sent(holding(cluster("a"), cluster("b"), cluster("c")))
    for held in (
        holding(cluster("a", "bad"), cluster("b", "bad"), cluster("c")),
        holding(cluster("a", "bad"), cluster("b", "bad"), cluster("c", "new")),
    ):
        (response,) = client.stream.responses(held)
        client.refuse(response, "no")
    mended = holding(cluster("a"), cluster("b"), cluster("c", "new"))
    (response,) = client.stream.responses(mended)
    assert [Cluster.FromString(resource.value).alt_stat_name for resource in response.resources] == ["", "", "new"]


def test_what_was_taken_before_stands_in_for_what_was_refused() -> None:
    client = Client("envoy")
    client.ask(CLUSTER)
    client.sent(holding(cluster("a", "good"), cluster("b")))
    (response,) = client.stream.responses(holding(cluster("a", "bad"), cluster("b")))
    client.refuse(response, "no")
    (response,) = client.stream.responses(holding(cluster("a", "bad"), cluster("b", "new")))
    stats = [Cluster.FromString(resource.value).alt_stat_name for resource in response.resources]
    assert stats == ["good", "new"]


def test_other_names_after_a_refusal_are_no_consent() -> None:
    client = Client()
    client.ask(CLUSTER, "a")
    client.sent(holding(cluster("a", "good")))
    before = client.stream.subscriptions[CLUSTER].acked_version
    (response,) = client.stream.responses(holding(cluster("a", "bad")))
    client.refuse(response, "no")
    assert client.ask(CLUSTER, "a", "b", version=before, nonce=response.nonce) is Answer.NAMES
    assert client.stream.subscriptions[CLUSTER].acked_version == before
    assert not client.stream.subscriptions[CLUSTER].settled


def test_nothing_is_removed_while_routes_that_were_refused_leave_the_old_ones_in_use() -> None:
    client = Client("envoy")
    client.ask(CLUSTER)
    client.ask(ROUTE, "r")
    client.sent(holding(cluster("old"), routes("r", "old")))
    after = holding(cluster("new"), routes("r", "new"))
    kept, moved = client.stream.responses(after)
    client.take(kept)
    client.refuse(moved, "no")
    assert client.sent(after) == []
    again = holding(cluster("new"), routes("r", "new2"))
    assert client.sent(again) == [("RouteConfiguration", ["r"])]
    assert client.sent(again) == [("Cluster", ["new"])]


def test_a_stale_nonce_changes_nothing() -> None:
    client = Client()
    client.ask(CLUSTER, "a")
    list(client.stream.responses(holding(cluster("a"))))
    assert client.ask(CLUSTER, "b", nonce="0") is Answer.STALE
    assert client.stream.subscriptions[CLUSTER].names == frozenset({"a"})
    assert client.stream.subscriptions[CLUSTER].acked_version == ""


def test_new_names_are_served_and_names_let_go_cost_nothing() -> None:
    client, held = Client(), holding(endpoints("a"), endpoints("b"))
    client.ask(ENDPOINT, "a")
    client.sent(held)
    nonce = client.stream.subscriptions[ENDPOINT].nonce
    client.ask(ENDPOINT, "a", "b", nonce=nonce)
    assert client.sent(held) == [("ClusterLoadAssignment", ["b"])]
    client.ask(ENDPOINT, "b", nonce=client.stream.subscriptions[ENDPOINT].nonce)
    assert client.sent(held) == []


def test_a_name_that_is_asked_for_again_is_sent_again() -> None:
    client, held = Client(), holding(endpoints("a"), endpoints("b"))
    for names in (("a", "b"), ("a",), ("a", "b")):
        subscription = client.stream.subscriptions.get(ENDPOINT)
        client.ask(ENDPOINT, *names, nonce=subscription.nonce if subscription else "")
        last = client.sent(held)
    assert last == [("ClusterLoadAssignment", ["b"])]


def test_no_names_at_first_means_all_and_no_names_later_means_none() -> None:
    held = holding(cluster("a"), cluster("b"))
    everything, named = Client("envoy"), Client()
    everything.ask(CLUSTER)
    assert everything.sent(held) == [("Cluster", ["a", "b"])]
    named.ask(CLUSTER, "a")
    named.sent(held)
    named.ask(CLUSTER, nonce=named.stream.subscriptions[CLUSTER].nonce)
    assert named.sent(holding(cluster("a", "new"))) == []


def test_a_listener_waits_until_the_registry_has_answered_for_every_name() -> None:
    client = Client("gRPC Go")
    client.ask(LISTENER, "a", "b")
    assert client.sent(holding(Listener(name="a"), pending=["b"])) == []
    assert client.sent(holding(Listener(name="a"), Listener(name="b"))) == [("Listener", ["a", "b"])]


def test_what_others_refer_to_is_sent_first() -> None:
    client = Client("envoy")
    for type_url in (ROUTE, LISTENER, ENDPOINT, CLUSTER):
        client.ask(type_url, *(["a"] if type_url in (ROUTE, ENDPOINT) else []))
    held = holding(routes("a", "a"), Listener(name="a"), endpoints("a"), cluster("a"))
    kinds = [kind for kind, _ in client.sent(held)]
    assert kinds == ["Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration"]


def test_envoy_is_sent_no_route_before_it_took_the_endpoints_of_a_new_cluster() -> None:
    client = Client("envoy")
    client.ask(CLUSTER)
    client.ask(ROUTE, "r")
    held = holding(cluster("a"), endpoints("a"), routes("r", "a"))
    assert client.sent(held) == [("Cluster", ["a"])]
    client.ask(ENDPOINT, "a")
    (response,) = client.stream.responses(held)
    assert list(client.stream.responses(held)) == []
    assert client.take(response) == ("ClusterLoadAssignment", ["a"])
    assert client.sent(holding(cluster("a"), endpoints("a", 2), routes("r", "a"))) == [
        ("ClusterLoadAssignment", ["a"]), ("RouteConfiguration", ["r"])
    ]  # fmt: skip


@pytest.mark.parametrize("type_url", [CLUSTER, ENDPOINT])
def test_envoy_that_refuses_one_cluster_is_sent_the_routes_to_all_others(type_url: str) -> None:
    client = Client("envoy")
    client.ask(CLUSTER)
    client.ask(ROUTE, "r")
    client.ask(ENDPOINT, "a", "b")
    held = holding(cluster("a"), cluster("b"), endpoints("a"), endpoints("b"), routes("r", "a"))
    for response in client.stream.responses(held):
        if response.type_url == type_url:
            client.refuse(response, "no")
        else:
            client.take(response)
    assert client.stream.subscriptions[ROUTE].settled
    assert client.stream.subscriptions[ROUTE].taken


def test_a_cluster_is_removed_only_after_the_client_took_routes_without_it() -> None:
    client = Client("envoy")
    client.ask(CLUSTER)
    client.ask(ROUTE, "r")
    client.sent(holding(cluster("old"), routes("r", "old")))
    after = holding(cluster("new"), routes("r", "new"))

    kept, moved = client.stream.responses(after)
    assert [describe(kept), describe(moved)] == [("Cluster", ["new", "old"]), ("RouteConfiguration", ["r"])]
    client.take(kept)
    assert list(client.stream.responses(after)) == []
    client.take(moved)
    assert client.sent(after) == [("Cluster", ["new"])]
    assert client.sent(after) == []


def test_a_client_that_comes_back_with_what_is_available_is_sent_nothing() -> None:
    held = holding(endpoints("a"), endpoints("b"))
    client, again = Client(), Client()
    client.ask(ENDPOINT, "a", "b")
    client.sent(held)
    again.ask(ENDPOINT, "a", "b", version=client.stream.subscriptions[ENDPOINT].acked_version)
    assert again.sent(held) == []
    assert again.sent(holding(endpoints("a"), endpoints("b", 2))) == [("ClusterLoadAssignment", ["b"])]


def test_a_client_that_comes_back_with_something_else_is_sent_what_is_available() -> None:
    client = Client()
    client.ask(ENDPOINT, "a", version="0123456789abcdef")
    assert client.sent(holding(endpoints("a"))) == [("ClusterLoadAssignment", ["a"])]


def test_a_client_that_comes_back_before_the_registry_has_answered_is_sent_nothing_it_holds() -> None:
    held = holding(Listener(name="a"), cluster("a"))
    before = Client()
    before.ask(LISTENER, "a")
    before.ask(CLUSTER, "a")
    versions = {r.type_url: r.version_info for r in before.stream.responses(held)}

    after = Client()
    after.ask(CLUSTER, "a", version=versions[CLUSTER])
    assert after.sent(holding()) == []
    after.ask(LISTENER, "a", version=versions[LISTENER])
    assert after.sent(holding(pending=["a"])) == []
    assert after.sent(held) == []
    assert after.sent(holding(Listener(name="a"), cluster("a", "new"))) == [("Cluster", ["a"])]


def test_a_client_that_comes_back_is_sent_nothing_before_the_registry_has_answered_for_its_services() -> None:
    held = holding(Listener(name="a"), cluster("a"), endpoints("a"))
    client, again = Client(), Client()
    for type_url in (LISTENER, CLUSTER, ENDPOINT):
        client.ask(type_url, "a")
    client.sent(held)
    for type_url in (ENDPOINT, CLUSTER):
        again.ask(type_url, "a", version=client.stream.subscriptions[type_url].acked_version)
        assert again.sent(holding()) == []
    again.ask(LISTENER, "a", version=client.stream.subscriptions[LISTENER].acked_version)
    assert again.sent(holding(pending=["a"])) == []
    assert again.sent(held) == []
    assert all(again.stream.subscriptions[t].settled for t in (LISTENER, CLUSTER, ENDPOINT))
    assert again.sent(holding(Listener(name="a"), cluster("a"), endpoints("a", 2))) == [
        ("ClusterLoadAssignment", ["a"])
    ]


def test_a_client_that_comes_back_for_something_that_is_gone_is_sent_the_rest() -> None:
    client = Client()
    client.ask(LISTENER, "a")
    client.ask(ENDPOINT, "a", "gone", version="0123456789abcdef")
    held = holding(Listener(name="a"), endpoints("a"))
    assert client.sent(held) == [("ClusterLoadAssignment", ["a"]), ("Listener", ["a"])]
