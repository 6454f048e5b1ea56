"""The stack file: what is read from it, and that every fault in it is told at once."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mesh.errors import InvalidConfig
from mesh.up.stack import Program, Service, Stack

FULL = """
try = ["curl -s {gateway}/v1/status"]
[stores]
valkey = false
[programs.scim]
command = ["python", "-m", "scim"]
ready_path = "/v2"
provides = { SCIM_URL = "http://127.0.0.1:{port}/v2" }
[services.order]
command = ["python", "-m", "order"]
replicas = 2
service_config = "order.json"
descriptors = "gen/all.binpb"
tags = ["a"]
meta = { team = "x" }
"""


def test_everything_in_a_file_is_read() -> None:
    stack = Stack.parse(tomllib.loads(FULL))
    assert stack == Stack(
        postgres=True,
        valkey=False,
        programs=(
            Program(
                name="scim",
                command=("python", "-m", "scim"),
                ready_path="/v2",
                provides={"SCIM_URL": "http://127.0.0.1:{port}/v2"},
            ),
        ),
        services=(
            Service(
                name="order",
                command=("python", "-m", "order"),
                replicas=2,
                service_config=Path("order.json"),
                descriptors=Path("gen/all.binpb"),
                tags=("a",),
                meta={"team": "x"},
            ),
        ),
        try_out=("curl -s {gateway}/v1/status",),
    )


@pytest.mark.parametrize("other", ["[services.order-1]", "[programs.order-2]"])
def test_a_numbered_replica_has_its_name_for_itself(other: str) -> None:
    document = f'services.order = {{ command = ["x"], replicas = 2 }}\n{other}\ncommand = ["x"]'
    with pytest.raises(InvalidConfig, match=r"the name 'order-[12]' is used twice"):
        Stack.parse(tomllib.loads(document))


def test_no_file_means_the_built_in_parts(tmp_path: Path) -> None:
    assert Stack.load(tmp_path) == Stack()


def test_all_faults_are_told_together() -> None:
    document = """
    typo = 1
    [stores]
    postgres = "yes"
    [programs.sidecar]
    command = ["x"]
    [services.Order]
    command = "python"
    replicas = 1000
    protocol = "udp"
    meta = { a = 1 }
    [services.two]
    [programs.two]
    command = ["x"]
    """
    with pytest.raises(InvalidConfig) as caught:
        Stack.parse(tomllib.loads(document))
    assert caught.value.message.splitlines() == [
        "mesh.toml: stores.postgres must be true or false",
        "mesh.toml: services.Order.command must be a list of texts",
        "mesh.toml: services.Order.command must be a list with the program and its arguments",
        "mesh.toml: services.Order.replicas must be a number from 0 to 100",
        "mesh.toml: services.Order.protocol must be one of grpc, http",
        "mesh.toml: services.Order.meta must be a table of texts",
        "mesh.toml: services.two.command must be a list with the program and its arguments",
        "mesh.toml: typo is not a known key",
        "mesh.toml: the name 'Order' must be lower-case letters, digits and hyphens, a letter first",
        "mesh.toml: the name 'sidecar' belongs to a built-in part",
        "mesh.toml: the name 'two' is used twice",
    ]


@pytest.mark.parametrize(("content", "told"), [(b"[", "mesh.toml: "), (b"\xff", "mesh.toml: ")])
def test_a_file_that_is_no_toml_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "mesh.toml").write_bytes(content)
    with pytest.raises(InvalidConfig, match=told):
        Stack.load(tmp_path)
