"""One client's stream: its subscriptions, and the order in which they are served. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from mesh.xds.dialect import Dialect, dialect_of
from mesh.xds.propagation import Propagation
from mesh.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ORDER, WHOLE, Resource, Snapshot
from mesh.xds.subscription import Answer, Subscription

_TARGETS: Final = (CLUSTER, ENDPOINT)
"""Types that all others refer to."""


@dataclass(eq=False)
class Stream:
    """Protocol state of one aggregated discovery stream."""

    node: Node = field(default_factory=Node)
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    propagation: Propagation = field(default_factory=Propagation)

    @property
    def dialect(self) -> Dialect:
        """The dialect of the client, by what it calls itself."""
        return dialect_of(self.node.user_agent_name, self.node.user_agent_version)

    @property
    def zone(self) -> str:
        """Where the client says that it is."""
        return str(self.node.locality.zone)

    @property
    def user_agent(self) -> str:
        """What the client calls itself, with its version."""
        return f"{self.node.user_agent_name} {self.node.user_agent_version}".strip()

    @property
    def settled(self) -> bool:
        """Whether the client has taken all that is available."""
        return all(subscription.settled for subscription in self.subscriptions.values())

    def wanted(self) -> frozenset[str]:
        """Names of the services that this client asked for: its listeners."""
        subscription = self.subscriptions.get(LISTENER)
        return (subscription and subscription.names) or frozenset()

    def receive(self, request: DiscoveryRequest) -> tuple[Subscription, Answer]:
        """Take a request; only the first of a stream needs to say who the client is."""
        if request.HasField("node"):
            self.node = request.node
        subscription = self.subscriptions.setdefault(request.type_url, Subscription(request.type_url))
        answer = subscription.receive(request)
        if answer is Answer.NACK:
            self.propagation.refuse()
        if answer is Answer.FIRST and request.type_url == ENDPOINT and self._warms():
            subscription.repeat(())
        return subscription, answer

    def _warms(self) -> bool:
        """Whether this is an Envoy that was sent clusters, and waits for endpoints even of those that it holds."""
        clusters = self.subscriptions.get(CLUSTER)
        return self.dialect.envoy and clusters is not None and bool(clusters.nonce)

    def responses(self, snapshot: Snapshot) -> Iterator[DiscoveryResponse]:
        """What to send now, in an order in which nothing refers to what was not sent before.

        Resources that are gone are removed only after the client has taken what no longer refers to them.
        """
        changed = False
        for type_url in ORDER:
            subscription = self.subscriptions.get(type_url)
            if type_url not in _TARGETS and self._is_warming(snapshot):
                break
            if subscription is None or self._is_too_early(subscription, snapshot):
                continue
            before = subscription.sent
            response = subscription.respond(snapshot.of_type(type_url), removals=type_url not in WHOLE)
            if response is not None:
                self._warm(before, subscription)
                changed = True
                yield response
        if not changed and self.settled:
            yield from self._removals(snapshot)

    def _is_warming(self, snapshot: Snapshot) -> bool:
        """Whether Envoy has yet to take the endpoints of a cluster: calls on a route to it would fail until then.

        One that refused is not waited for: what it can use of the rest is worth more.
        """
        clusters, endpoints = (self.subscriptions.get(type_url) for type_url in _TARGETS)
        if clusters is None or clusters.names is not None or clusters.refused or not self.dialect.envoy:
            return False
        taken = endpoints.taken.keys() if endpoints else frozenset[str]()
        return not (endpoints and endpoints.refused) and not snapshot.of_type(ENDPOINT).keys() <= taken

    def _warm(self, before: Mapping[str, Resource], subscription: Subscription) -> None:
        """Envoy takes a cluster that changed into use only when it is sent its endpoints again, else after 15 s.

        https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-warming
        """
        endpoints = self.subscriptions.get(ENDPOINT)
        if subscription.type_url == CLUSTER and endpoints and self.dialect.envoy:
            changed = (r for name, r in subscription.sent.items() if name in before and before[name] != r)
            clusters = (Cluster.FromString(resource.body.value) for resource in changed)
            endpoints.repeat(cluster.eds_cluster_config.service_name or cluster.name for cluster in clusters)

    def _is_too_early(self, subscription: Subscription, snapshot: Snapshot) -> bool:
        """Whether the registry is still being asked for a listener, or for what a client came back with.

        A client that held it through a restart of ours would else be sent all of it again.
        """
        if subscription.type_url == LISTENER:
            return bool(self.wanted() & snapshot.pending)
        if not subscription.resuming:
            return False
        missing = (subscription.names or frozenset()) - snapshot.of_type(subscription.type_url).keys()
        is_being_asked = LISTENER not in self.subscriptions or bool(missing & snapshot.pending)
        return bool(missing) and is_being_asked

    def _removals(self, snapshot: Snapshot) -> Iterator[DiscoveryResponse]:
        for type_url in reversed(ORDER):
            subscription = self.subscriptions.get(type_url)
            if subscription and type_url in WHOLE and not self.wanted() & snapshot.pending:
                response = subscription.respond(snapshot.of_type(type_url))
                if response is not None:
                    yield response
