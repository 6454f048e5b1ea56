"""No environment, token or password is shown by the repr of anything."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import console
import gateway
import mesh
import services
from mesh.member_options import MemberSettings
from mesh.paths import Paths
from mesh.process import Command
from mesh.registry import RegistrySettings
from mesh.run import Instance, Membership
from mesh.up.plan import Plan, Ports
from mesh.up.stack import Program, Service, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

SECRET = "hunter2"
ENVIRON = {"DATABASE_URL": f"postgresql://user:{SECRET}@host/db"}
PATHS = Paths(state=Path("/state"), run=Path("/run/mesh"))
PLACES = {"environ", "headers", "token", "password", "key_file", "provides"}
"""Names of fields that hold secrets, or whatever users put there."""


def dataclasses_of(package: ModuleType) -> Iterator[type[Any]]:
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not info.name.endswith("__main__") and ".migrations" not in info.name:
            found = vars(importlib.import_module(info.name)).values()
            yield from (kind for kind in found if isinstance(kind, type) and dataclasses.is_dataclass(kind))


def test_fields_that_may_hold_secrets_are_in_no_repr() -> None:
    kinds = {kind for package in (mesh, gateway, console, services) for kind in dataclasses_of(package)}
    shown = {
        f"{kind.__module__}.{kind.__qualname__}.{field.name}"
        for kind in kinds
        for field in dataclasses.fields(kind)
        if field.name in PLACES and field.repr
    }
    assert {Command, Instance, MemberSettings, Plan, Program, Service} <= kinds
    assert shown == set()


def test_what_runs_programs_shows_no_environment() -> None:
    membership = Membership(service="a")
    instance = Instance(membership=membership, argv=("a",), environ=ENVIRON, paths=PATHS)
    stack = Stack(
        programs=(Program(name="p", command=("p",), environ=ENVIRON, provides=ENVIRON),),
        services=(Service(name="s", command=("s",), environ=ENVIRON),),
    )
    plan = Plan.of(stack, PATHS, Path("/"), {**ENVIRON, "DATABASE_URL": ""}, Ports())
    holders = (
        Command(argv=("a",), environ=ENVIRON),
        instance,
        MemberSettings(instance=instance, registry=RegistrySettings(token=SECRET), is_secured=True),
        Plan.of(stack, PATHS, Path("/"), ENVIRON, Ports()),
        plan.postgres(),
        plan.valkey(),
    )
    assert all("(" in repr(holder) and SECRET not in repr(holder) for holder in holders)
