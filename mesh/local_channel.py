"""The channel of a sidecar to a process on its host: plain, or with mutual TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from mesh.identity import Proof

Options = tuple[tuple[str, Any], ...]


def dial(target: str, proof: Proof | None, options: Options = ()) -> grpc.aio.Channel:
    """A channel; with a proof, to a server whose certificate has the name that it says.

    gRPC compares no SPIFFE ids outside of xDS, and a certificate of Connect has no host name: its common name counts.
    """
    if proof is None:
        return grpc.aio.insecure_channel(target, options)
    own = proof.own
    credentials = grpc.ssl_channel_credentials(own.roots.encode(), own.key.encode(), own.certificate.encode())
    return grpc.aio.secure_channel(target, credentials, (*options, ("grpc.ssl_target_name_override", proof.name)))
