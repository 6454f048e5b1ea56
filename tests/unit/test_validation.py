"""Field rules: what each accepts, and how what it refuses is named."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import duration_pb2, empty_pb2, struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from mesh.errors import InvalidConfig, Refused
from mesh.validation import MAX_VIOLATIONS, check, check_message, check_of
from meshwright.order.v1 import order_pb2, order_service_pb2
from tests.fixtures.made import Type, field, message_type

UUID = "0b8e4a5c-6a5b-4d39-9ad1-0a7c6f9b2f11"


def violations(message: Any) -> list[tuple[str, str]]:
    """What is refused about a message."""
    check = check_message(message.DESCRIPTOR)
    if check is None:
        return []
    try:
        check(message)
    except Refused as error:
        return list(error.violations)
    return []


TEXT = [
    ({"required": True}, "", "is required"),
    ({"required": True}, "x", None),
    ({"uuid4": True}, UUID, None),
    ({"uuid4": True}, UUID.upper(), None),
    ({"uuid4": True}, "", None),
    ({"uuid4": True}, UUID.replace("4d39", "1d39"), "is not a UUID of version 4"),
    ({"uuid4": True}, UUID + "\n", "is not a UUID of version 4"),
    ({"uuid4": True}, "{" + UUID + "}", "is not a UUID of version 4"),
    ({"min_length": 2}, "", None),
    ({"min_length": 2}, "ü", "is shorter than 2 characters"),
    ({"min_length": 2}, "üü", None),
    ({"max_length": 2}, "üü", None),
    ({"max_length": 2}, "üüü", "is longer than 2 characters"),
    ({"pattern": "[a-z]+"}, "abc", None),
    ({"pattern": "[a-z]+"}, "abc1", "does not match [a-z]+"),
    ({"pattern": "[a-z]+$"}, "abc\n", "does not match [a-z]+$"),
    ({"pattern": r"\d+"}, "٣", r"does not match \d+"),
    ({}, "a\0b", "holds NUL"),
]


@pytest.mark.parametrize(("rules", "value", "problem"), TEXT)
def test_text(rules: dict[str, Any], value: str, problem: str | None) -> None:
    root = message_type(field("it", **rules))
    assert violations(root(it=value)) == ([("it", problem)] if problem else [])


NUMBERS = [
    (Type.TYPE_INT32, {"minimum": 1, "maximum": 5}, 1, None),
    (Type.TYPE_INT32, {"minimum": 1, "maximum": 5}, 5, None),
    (Type.TYPE_INT32, {"minimum": 1, "maximum": 5}, 6, "is more than 5"),
    (Type.TYPE_INT32, {"minimum": 1}, -1, "is less than 1"),
    (Type.TYPE_INT32, {"minimum": 1}, 0, None),
    (Type.TYPE_INT64, {"minimum": 0}, -1, "is less than 0"),
    (Type.TYPE_DOUBLE, {"maximum": 1}, float("nan"), "is more than 1"),
    (Type.TYPE_DOUBLE, {"minimum": 0}, float("-inf"), "is less than 0"),
    (Type.TYPE_UINT64, {"maximum": 10}, 2**64 - 1, "is more than 10"),
]


@pytest.mark.parametrize(("kind", "rules", "value", "problem"), NUMBERS)
def test_numbers(
    kind: FieldDescriptorProto.Type.ValueType, rules: dict[str, Any], value: float, problem: str | None
) -> None:
    root = message_type(field("it", type_=kind, **rules))
    assert violations(root(it=value)) == ([("it", problem)] if problem else [])


def test_items() -> None:
    root = message_type(field("it", repeated=True, min_items=2, max_items=3, max_length=1))
    assert violations(root()) == [("it", "has fewer than 2 items")]
    assert violations(root(it=["a"])) == [("it", "has fewer than 2 items")]
    assert violations(root(it=["a", "b"])) == []
    assert violations(root(it=["a", "bb", "c", "d"])) == [
        ("it", "has more than 3 items"), ("it[1]", "is longer than 1 characters"),
    ]


def test_bytes_have_a_length_and_may_hold_nul() -> None:
    root = message_type(field("it", type_=Type.TYPE_BYTES, max_length=2))
    assert violations(root(it=b"\0\0")) == []
    assert violations(root(it=b"abc")) == [("it", "is longer than 2 bytes")]


def test_enums_have_known_numbers() -> None:
    root = message_type(field("one", 1, type_=Type.TYPE_ENUM, type_name="Color"),
                        field("many", 2, type_=Type.TYPE_ENUM, type_name="Color", repeated=True))
    assert violations(root(one=1, many=[0, 1])) == []
    assert violations(root(one=7, many=[1, 8])) == [("one", "7 is no Color"), ("many[1]", "8 is no Color")]


def test_nested_messages_are_named_by_their_path_even_within_themselves() -> None:
    root = message_type(field("tree", type_=Type.TYPE_MESSAGE, type_name="Node", required=True))
    assert violations(root()) == [("tree", "is required")]
    tree = {"name": "a", "children": [{"name": "b"}, {"children": [{"name": "\0"}]}]}
    assert violations(root(tree=tree)) == [
        ("tree.children[1].name", "is required"), ("tree.children[1].children[0].name", "holds NUL"),
    ]


def test_maps() -> None:
    root = message_type(field("by_key", type_=Type.TYPE_MESSAGE, type_name="ByKeyEntry", repeated=True))
    message = root()
    message.by_key["a"].name = "fine"
    assert violations(message) == []
    message.by_key['q"\0'].SetInParent()
    assert violations(message) == [
        ('by_key["q\\"\\u0000"]', "holds NUL"), ('by_key["q\\"\\u0000"].name', "is required"),
    ]


@pytest.mark.parametrize(
    ("seconds", "nanos", "right"),
    [(0, 0, True), (253_402_300_799, 999_999_999, True), (253_402_300_800, 0, False), (0, -1, False),
     (0, 10**9, False)],
)
def test_timestamps_are_within_their_range(seconds: int, nanos: int, right: bool) -> None:
    root = message_type(field("at", type_=Type.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp"))
    message = root(at=timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos))
    assert (violations(message) == []) is right


def test_durations_are_within_their_range() -> None:
    check = check_message(duration_pb2.Duration.DESCRIPTOR)
    assert check is None, "a bare Duration has no field with rules; the field that holds it has"


def test_struct_and_its_kind_may_nest_and_hold_no_nul() -> None:
    message = struct_pb2.Struct()
    message.update({"a": [{"b": "x\0"}]})
    assert violations(message) == [
        ('fields["a"].list_value.values[0].struct_value.fields["b"].string_value', "holds NUL")
    ]


def test_violations_are_bounded() -> None:
    root = message_type(field("it", repeated=True, max_length=1))
    assert len(violations(root(it=["xx"] * 10_000))) == MAX_VIOLATIONS


def test_a_message_that_cannot_be_wrong_has_no_check() -> None:
    assert check_message(empty_pb2.Empty.DESCRIPTOR) is None
    assert check_message(message_type(field("it", type_=Type.TYPE_INT32)).DESCRIPTOR) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"type_": Type.TYPE_INT32, "pattern": "x"}, {"type_": Type.TYPE_INT32, "uuid4": True},
        {"type_": Type.TYPE_INT32, "max_length": 1}, {"minimum": 1}, {"min_items": 1}, {"pattern": "("},
        {"pattern": "(?=x)"}, {"pattern": r"(a)\1"}, {"pattern": "(?<!x)y"}, {"min_length": 3, "max_length": 2},
    ],
)
def test_rules_that_cannot_be_kept_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match=r"made\d+\.Root\.it: "):
        check_message(message_type(field("it", **wrong)).DESCRIPTOR)


@pytest.mark.parametrize("pattern", [r"\\1", r"(?P<word>a)", r"(?:a|b)", r"(?i)a", r"[\^(]?="])
def test_patterns_of_re2_are_taken(pattern: str) -> None:
    assert check_message(message_type(field("it", pattern=pattern)).DESCRIPTOR) is not None


def test_requests_are_found_by_the_path_of_their_method() -> None:
    found = check_of("/meshwright.order.v1.OrderService/CreateOrder")
    assert found is not None
    request = order_service_pb2.CreateOrderRequest(lines=[order_pb2.OrderLine(sku="A-1")])
    with pytest.raises(Refused) as caught:
        found(request)
    assert {path for path, _ in caught.value.violations} >= {
        "request_id", "customer_id", "lines[0].quantity", "lines[0].unit_price",
    }


@pytest.mark.parametrize("path", ["/nobody.Knows/It", "/meshwright.order.v1.OrderService/Nothing", "nonsense"])
def test_unknown_methods_have_no_check(path: str) -> None:
    assert check_of(path) is None


def test_a_method_that_checks_its_requests_itself_has_the_same_rules_at_hand() -> None:
    assert check_of("/meshwright.order.v1.OrderService/ImportOrders") is None
    with pytest.raises(Refused, match="request_id: is required"):
        check(order_service_pb2.CreateOrderRequest())
    check(order_service_pb2.GetOrderRequest(id=UUID))
    check(empty_pb2.Empty())
