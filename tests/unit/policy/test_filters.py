"""Filter expressions: what each selects, and what is refused."""

from __future__ import annotations

import pytest

from mesh.policy.filters import BadFilter, Filter
from mesh.registry.model import Instance

CANARY = Instance(
    service="shop", id="shop-1", address="10.0.0.1", port=5001, tags=("meshwright", "canary"),
    meta={"version": "2.1.0", "zone": "a", "team-name": "blue ones"}, node="host-1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "selects"),
    [
        ('Service.Meta.version == "2.1.0"', True),
        ("Service.Meta.version == 2.1.0", True),
        ("Service.Meta.version != `2.1.0`", False),
        ('Service.Meta.absent == "x"', False),
        ('Service.Meta.absent != "x"', True),
        ('Service.Meta["team-name"] == "blue ones"', True),
        ('Service.Meta.version matches "^2[.]"', True),
        ('Service.Meta.version not matches "^2[.]"', False),
        ('Service.Meta.absent matches "x"', False),
        ('"canary" in Service.Tags', True),
        ("canary in Service.Tags", True),
        ('"canary" not in Service.Tags', False),
        ('Service.Tags contains "canary"', True),
        ('Service.Tags not contains "stable"', True),
        ('"version" in Service.Meta', True),
        ('"ersion" in Service.Meta.version', False),
        ("Service.Meta is empty", False),
        ("Service.Meta.zone is not empty", True),
        ("Service.Meta.absent is empty", True),
        ("Service.Port == 5001", True),
        ("Service.ID == shop-1 and Service.Service == shop and Node.Node == host-1", True),
        ('Service.Address == "10.0.0.2"', False),
        ("not Service.Port == 5001", False),
        ("not not Service.Port == 5001", True),
        # `and` binds closer than `or`, `not` closer than both.
        ("Service.Port == 1 and Service.Port == 5001 or Service.Port == 5001", True),
        ("Service.Port == 1 and (Service.Port == 5001 or Service.Port == 5001)", False),
        ("not Service.Port == 1 and Service.Port == 5001", True),
        ('Service.Meta.version=="2.1.0"', True),
        (r'Service.Meta.version == "2\.1.0"', True),
    ],
)
def test_what_an_expression_selects(text: str, selects: bool) -> None:
    assert Filter.parse(text).matches(CANARY) is selects


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "a selector or a value is missing at its end"),
        ("Service.Meta.version", "is empty is missing at its end"),
        ("Service.Meta.version ==", "a selector or a value is missing at its end"),
        ("Service.Meta.version = 2", "'= 2' is not understood"),
        ('Service.Meta.version == "2', "is not understood"),
        ("(Service.Port == 1", "a closing parenthesis is missing"),
        ("Service.Port == 1)", "what follows is not understood at ')'"),
        ('Service.ID matches "a{99999999999}"', "is not a regular expression"),
        ("(" * 3000 + "Service.Port == 1", "is too long: 200 are the most"),
        ("Service.Port == 1 Service.Port == 2", "what follows is not understood"),
        ("Service.Meta is big", "`is` is followed by"),
        ('Service.Meta["a" == 1', "a closing bracket is missing"),
        ("ServiceMeta.version == 2", "'ServiceMeta.version' is not one of Service.ID"),
        ("Service.Meta. == 2", "'Service.Meta.' is not one of"),
        ("x in Service.Proxy", "'Service.Proxy' is not one of"),
        ("Service.Tags == canary", "cannot be compared with =="),
        ('Service.ID matches "("', "is not a regular expression"),
        ("not", "a selector or a value is missing"),
        ("Service.Port not == 1", "is missing at '=='"),
    ],
)
def test_what_is_refused(text: str, fault: str) -> None:
    with pytest.raises(BadFilter) as caught:
        Filter.parse(text)
    assert fault in str(caught.value)


def test_equal_expressions_are_equal() -> None:
    assert Filter.parse("Service.Port == 1") == Filter.parse("Service.Port == 1")
