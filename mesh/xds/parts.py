"""What all builders of xDS resources use. Pure."""

from __future__ import annotations

from datetime import timedelta

from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message


def ads() -> ConfigSource:
    """Whatever this refers to comes on the same stream."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def packed(message: Message) -> Any:
    """A message as a google.protobuf.Any with deterministic bytes."""
    return Any(
        type_url="type.googleapis.com/" + message.DESCRIPTOR.full_name,
        value=message.SerializeToString(deterministic=True),
    )


def duration(seconds: float) -> Duration:
    """Seconds as a google.protobuf.Duration."""
    made = Duration()
    made.FromTimedelta(timedelta(seconds=seconds))
    return made
