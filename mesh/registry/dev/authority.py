"""The certificate authority of the built-in registry: roots, and a leaf for each service (pure; the caller's clock)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from mesh.registry.dev import certificates
from mesh.registry.dev.certificates import Signer, Subject, whole_seconds
from mesh.registry.dev.index import Index, Scope

ROOTS: Scope = "connect/roots"

LEAF_SECONDS: Final = 72 * 3600.0
"""How long a leaf is valid, unless that is configured: Consul's default."""

RENEWED_AT: Final = 0.7
"""Share of its life after which a leaf is replaced."""

_ROOT_LIFE: Final = timedelta(days=3652)
_EARLIER: Final = timedelta(minutes=1)
"""Leaves are valid since so long ago, so that a clock that is behind accepts them."""


def leaf_scope(service: str) -> Scope:
    """What a query for a leaf reads."""
    return f"connect/leaf/{service}"


@dataclass(frozen=True, kw_only=True)
class Root(Signer):
    """A root certificate with its key."""

    cross_signed: str = ""
    """The same name and key signed by the root before it, for those who do not know this one yet."""

    replaced_at: datetime | None = None
    """Since when another one signs; None for the one that does."""

    create_index: int = 0
    modify_index: int = 0


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """The certificate of one service with its key; PEM."""

    service: str
    uri: str
    """Its SPIFFE id."""

    certificate: str
    """With the cross-signed root behind it, where there is one."""

    key: str = field(repr=False)
    begin: datetime
    end: datetime
    renewed_at: datetime
    """When it is time for another one."""

    index: int


class Authority:
    """Signs with its newest root; those before stay trusted for as long as leaves of theirs may be in use."""

    def __init__(self, index: Index, leaf_seconds: float = LEAF_SECONDS) -> None:
        self._index = index
        self.leaf_seconds = leaf_seconds
        self.config_index = index.first
        self.trust_domain = ""
        """Empty as long as there is no root."""

        self.roots: tuple[Root, ...] = ()
        """The newest last."""

        self._leaves: dict[str, Leaf] = {}

    def load(self, content: Mapping[str, Any]) -> None:
        """Take over what `stored` said in an earlier run, but for how long leaves live."""
        self.trust_domain = content["TrustDomain"]
        self.leaf_seconds = content["LeafSeconds"] or self.leaf_seconds
        self.config_index = content["ConfigIndex"]
        self.roots = tuple(_loaded(root) for root in content["Roots"])

    def stored(self) -> dict[str, Any]:
        """All that is needed to be the same authority again. Secret."""
        roots = [_stored(root) for root in self.roots]
        return {
            "TrustDomain": self.trust_domain, "LeafSeconds": self.leaf_seconds, "ConfigIndex": self.config_index,
            "Roots": roots,
        }  # fmt: skip

    @property
    def active(self) -> Root:
        """The one that signs."""
        return self.roots[-1]

    def begin(self, now: datetime) -> bool:
        """Make the first root; False where there is one."""
        if self.roots:
            return False
        self.trust_domain = f"{uuid.uuid4()}.consul"
        self.roots = (self._root(certificates.root_name(self.trust_domain), certificates.new_key(), now),)
        return True

    def leaf(self, service: str, datacenter: str, now: datetime) -> Leaf:
        """The leaf of a service, made when it is first asked for. Raises ValueError for a name without a SPIFFE id."""
        if service not in self._leaves:
            self._leaves[service] = self._issued(service, datacenter, now)
        return self._leaves[service]

    def configure(self, now: datetime, *, leaf_seconds: float, key: str = "") -> None:
        """From now on leaves live for so long, and are signed by a root with this key.

        Raises ValueError for a key that is not on the curve P-256.
        """
        new = certificates.normal_key(key) if key else self.active.key
        self.leaf_seconds = leaf_seconds
        self.config_index = self._index.next()
        if new != self.active.key:
            self._rotate(new, now)

    def advance(self, now: datetime) -> None:
        """Let time pass: forget leaves that are to be renewed, and roots whose last leaf is over."""
        for leaf in [leaf for leaf in self._leaves.values() if leaf.renewed_at <= now]:
            self._forget(leaf)
        left = tuple(root for root in self.roots if root.replaced_at is None or root.replaced_at + self._overlap > now)
        if len(left) < len(self.roots):
            self.roots = left
            self._index.next(ROOTS)

    @property
    def _overlap(self) -> timedelta:
        return timedelta(seconds=2 * self.leaf_seconds)

    def _rotate(self, key: str, now: datetime) -> None:
        name = certificates.root_name(self.trust_domain)
        before, root = self.active, self._root(name, key, now)
        begin, end = whole_seconds(now - _EARLIER), whole_seconds(now + self._overlap)
        subject = Subject(name=name, uri=f"spiffe://{self.trust_domain}", begin=begin, end=end)
        root = replace(root, cross_signed=certificates.cross_signed(subject, key, before))
        before = replace(before, replaced_at=now, modify_index=root.modify_index)
        self.roots = (*self.roots[:-1], before, root)
        for leaf in list(self._leaves.values()):
            self._forget(leaf)

    def _root(self, name: str, key: str, now: datetime) -> Root:
        begin = whole_seconds(now)
        subject = Subject(name=name, uri=f"spiffe://{self.trust_domain}", begin=begin, end=begin + _ROOT_LIFE)
        number = self._index.next(ROOTS)
        return Root(
            certificate=certificates.root(subject, key), key=key, create_index=number, modify_index=number
        )

    def _forget(self, leaf: Leaf) -> None:
        """Who waits for another one is woken, and gets it by asking."""
        del self._leaves[leaf.service]
        self._index.next(leaf_scope(leaf.service))

    def _issued(self, service: str, datacenter: str, now: datetime) -> Leaf:
        uri = f"spiffe://{self.trust_domain}/ns/default/dc/{datacenter}/svc/{quote(service)}"
        if not service or "/" in service:
            raise ValueError(f"SPIFFE ID is not in the expected format: {uri}")
        begin, end = whole_seconds(now - _EARLIER), whole_seconds(now + timedelta(seconds=self.leaf_seconds))
        name = certificates.leaf_name(service, self.trust_domain)
        key = certificates.new_key()
        made = certificates.leaf(Subject(name=name, uri=uri, begin=begin, end=end), key, self.active)
        return Leaf(
            service=service, uri=uri, certificate=made + self.active.cross_signed, key=key, begin=begin, end=end,
            renewed_at=now + timedelta(seconds=self.leaf_seconds * RENEWED_AT),
            index=self._index.next(leaf_scope(service)),
        )  # fmt: skip


def proven(content: Mapping[str, Any]) -> dict[str, Any]:
    """What `Authority.stored` said, read from disk. Raises KeyError, TypeError or ValueError for anything else."""
    for root in content["Roots"]:
        certificates.parsed(root["RootCert"])
        certificates.normal_key(root["PrivateKey"])
        _loaded(root)
    if not content["Roots"] or not content["TrustDomain"]:
        raise ValueError("there is no root")
    seconds, index = float(content["LeafSeconds"]), int(content["ConfigIndex"])
    return {**content, "LeafSeconds": seconds, "ConfigIndex": index}


def _stored(root: Root) -> dict[str, Any]:
    return {
        "RootCert": root.certificate,
        "PrivateKey": root.key,
        "CrossSigned": root.cross_signed,
        "ReplacedAt": root.replaced_at and root.replaced_at.isoformat(),
        "CreateIndex": root.create_index,
        "ModifyIndex": root.modify_index,
    }


def _loaded(content: Mapping[str, Any]) -> Root:
    replaced = content["ReplacedAt"]
    return Root(
        certificate=content["RootCert"],
        key=content["PrivateKey"],
        cross_signed=content["CrossSigned"],
        replaced_at=datetime.fromisoformat(replaced) if replaced else None,
        create_index=int(content["CreateIndex"]),
        modify_index=int(content["ModifyIndex"]),
    )
