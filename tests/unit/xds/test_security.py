"""Over TLS or in plaintext: what a destination with failovers is reached by."""

from __future__ import annotations

import pytest

from mesh.registry.model import Instance
from mesh.xds.security import secured


@pytest.mark.parametrize(("groups", "demanded", "left"), [
    ((), False, ()),
    (("", ""), False, ("", "")),
    (("t",), True, ("t",)),
    (("p",), False, ("p",)),
    (("tp",), True, ("t",)),
    (("p", "t"), False, ("p", "")),  # a healthy target is not left for the sake of its failover
    (("t", "p"), True, ("t", "")),  # and its TLS is not given up
    (("p", "tp", "p"), False, ("p", "p", "p")),
    (("", "t", "p"), True, ("", "t", "")),
    (("", "p", "t"), False, ("", "p", "")),
])  # fmt: skip
def test_the_first_group_with_an_instance_decides(
    groups: tuple[str, ...], demanded: bool, left: tuple[str, ...]
) -> None:
    assert secured(map(instances, groups)) == (demanded, tuple(map(instances, left)))


def instances(letters: str) -> tuple[Instance, ...]:
    """One that demands TLS for each t, one in plaintext for each p."""
    return tuple(
        Instance(service="shop", id=letter, address="10.0.0.1", port=1, meta={"tls": "mutual"} if letter == "t" else {})
        for letter in letters
    )
