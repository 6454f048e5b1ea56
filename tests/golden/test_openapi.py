"""The OpenAPI document of the services that come with the project, whole."""

from __future__ import annotations

import json
from collections.abc import Callable

from gateway.openapi import openapi
from tests.unit.gateway.compiled import reference_services


def test_the_reference_services(golden: Callable[[str, str], None]) -> None:
    golden("gateway/openapi.json", json.dumps(openapi(reference_services()), indent=2, ensure_ascii=False) + "\n")
