"""What each client of an ADS server holds and refused, told to whoever asks on the same socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from mesh.xds.server import AdsServicer
from mesh.xds.stream import Stream
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from meshwright.sidecar.v1.sidecar_service_pb2_grpc import SidecarServiceServicer


class ListingServicer(SidecarServiceServicer):
    """The part of `meshwright.sidecar.v1.SidecarService` that every ADS server has; the rest is unimplemented."""

    def __init__(self, ads: AdsServicer) -> None:
        self._ads = ads

    async def ListSubscriptions(
        self, request: pb.ListSubscriptionsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListSubscriptionsResponse:
        """What each connected xDS client holds."""
        held = [message for stream in self._ads.streams for message in _messages(stream)]
        return pb.ListSubscriptionsResponse(subscriptions=sorted(held, key=lambda m: (m.node, m.type_url)))


def _messages(stream: Stream) -> Iterator[pb.Subscription]:
    for type_url, subscription in stream.subscriptions.items():
        yield pb.Subscription(
            node=stream.node.id,
            user_agent=stream.user_agent,
            type_url=type_url,
            resource_names=sorted(subscription.names or ()),
            acked_version=subscription.acked_version,
            nack_count=subscription.nack_count,
            last_nack=subscription.last_nack,
        )
