"""Requests about certificates and intentions: what Consul takes, and its words for what it does not (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from mesh.registry.dev.intentions import Intention
from mesh.registry.dev.parse import Body, document, duration, unsupported
from mesh.registry.dev.rejected import Rejected
from mesh.registry.dev.spelling import spelled

_INTENTION: Final = (
    "ID Description SourceNS SourceName DestinationNS DestinationName SourceType Action DefaultAddr DefaultPort Meta "
    "Precedence CreatedAt UpdatedAt Hash CreateIndex ModifyIndex"
)
_LEAST_LEAF_SECONDS: Final = 3600.0


def intention(body: bytes, intention_id: str, moment: str, *, is_new: bool) -> Intention:
    """The body of `POST /v1/connect/intentions` or `PUT .../<id>`, said at a moment. Raises Rejected."""
    try:
        fields = Body(document(body, ""), _INTENTION)
    except Rejected as rejected:
        text = rejected.text.removeprefix("Request decode failed: ")
        raise Rejected(500, f"Failed to decode request body: {text}") from rejected
    if is_new and fields.text("ID"):
        raise Rejected(500, "ID must be empty when creating a new intention")
    if any(fields.text(name) not in ("", "default") for name in ("SourceNS", "DestinationNS")):
        raise unsupported("namespaces are")
    found = Intention(
        id=intention_id,
        source=fields.text("SourceName"),
        destination=fields.text("DestinationName"),
        action=fields.text("Action"),
        description=fields.text("Description"),
        meta={key: str(value) for key, value in fields.object("Meta").items()},
        created_at=moment,
        updated_at=moment,
    )
    if problems := [f"\t* {problem}" for problem in found.problems()]:
        count = f"{len(problems)} error{'s' if len(problems) > 1 else ''} occurred:"
        raise Rejected(500, "\n".join([count, *problems, "", ""]))
    return found


class Ends(NamedTuple):
    """Of whose calls to whom something is said."""

    source: str
    destination: str


def ends(query: Mapping[str, str]) -> Ends:
    """Of `/v1/connect/intentions/exact`. Raises Rejected."""
    return Ends(_end(query, "source"), _end(query, "destination"))


def _end(query: Mapping[str, str], name: str) -> str:
    """A service, with the default namespace or partition before it or not."""
    if not query.get(name):
        raise Rejected(400, f"required query parameter '{name}' not set")
    *spaces, service = query[name].split("/")
    if len(spaces) > 2 or any(space != "default" for space in spaces):
        raise unsupported("namespaces are")
    return service


def source_of(body: bytes, wanted: Ends) -> dict[str, Any]:
    """The body of `PUT /v1/connect/intentions/exact`, as a source of a config entry. Raises Rejected."""
    try:
        fields = Body(document(body, ""), f"{_INTENTION} Permissions")
    except Rejected as rejected:
        text = rejected.text.removeprefix("Request decode failed: ")
        raise Rejected(400, f"Failed to decode request body: {text}") from rejected
    if (fields.text("SourceName") or wanted.source, fields.text("DestinationName") or wanted.destination) != wanted:
        raise Rejected(400, "SourceName and DestinationName, where given, must be those of the query")
    if fields.object("Meta"):
        raise Rejected(400, "Meta must not be specified, or must be left unchanged, for an intention by name")
    said = {"Action": fields.text("Action"), "Description": fields.text("Description")}
    permissions = spelled(fields.objects("Permissions"))
    made = {"Name": wanted.source, "Type": "consul", **said, "Permissions": permissions}
    return {name: value for name, value in made.items() if value}


def authority_configuration(body: bytes) -> tuple[float, str]:
    """Seconds that leaves live and a key for the root, empty for none, of `PUT /v1/connect/ca/configuration`."""
    fields = Body(document(body, "Bad request: Request decode failed: "), "Provider Config ForceWithoutCrossSigning")
    if fields.text("Provider") != "consul":
        raise Rejected(500, f'could not initialize provider: unknown CA provider "{fields.text("Provider")}"')
    config = fields.object("Config")
    if config.get("RootCert"):
        raise unsupported("a root certificate of your own is")
    return _leaf_seconds(str(config.get("LeafCertTTL") or "72h")), str(config.get("PrivateKey") or "")


def _leaf_seconds(text: str) -> float:
    try:
        seconds = duration(text)
    except ValueError as error:
        raise Rejected(500, f"error decoding config: {error}") from error
    if seconds < _LEAST_LEAF_SECONDS:
        raise Rejected(500, "error configuring provider: leaf cert TTL must be greater or equal than 1h0m0s")
    return seconds
