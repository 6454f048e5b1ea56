"""Merging contracts: who is in, who is not and why, and that nobody takes others down."""

from __future__ import annotations

from collections.abc import Collection

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from gateway.comments import comments
from gateway.descriptors import Merged, installed, merge
from mesh.contract import Contract
from tests.unit.gateway.contracts import contract_of, file_of


def merged(previous: Merged | None = None, absent: Collection[str] = (), **contracts: Contract) -> Merged:
    return merge(contracts, previous or Merged(), installed, absent)


def texts(result: Merged) -> list[str]:
    return [f"{problem.service}: {problem.text}" for problem in result.problems]


def shared(field: str) -> FileDescriptorProto:
    """A file that several services import."""
    return common(field, package="shared")


def common(field: str, package: str, name: str = "shared.proto") -> FileDescriptorProto:
    """A file with a message `Common`."""
    file = FileDescriptorProto(name=name, package=package, syntax="proto3")
    file.message_type.add(name="Common").field.add(
        name=field, number=1, type=FieldDescriptorProto.TYPE_STRING, label=FieldDescriptorProto.LABEL_OPTIONAL
    )
    return file


def test_services_are_merged_each_file_once() -> None:
    result = merged(one=contract_of("a", shared("x")), two=contract_of("b", shared("x")))
    names = [file.name for file in result.files]
    assert sorted(names) == sorted(set(names))
    assert {"a/api.proto", "b/api.proto", "shared.proto", "google/rpc/error_details.proto"} <= set(names)
    assert result.owners == {"a.Api": "one", "b.Api": "two"}
    assert result.transcoded == ("a.Api", "b.Api")
    assert not result.problems


def test_the_merged_set_is_complete_and_dependencies_come_first() -> None:
    seen: set[str] = set()
    for file in FileDescriptorSet.FromString(merged(one=contract_of("a")).serialized).file:
        assert set(file.dependency) <= seen
        assert not file.HasField("source_code_info")
        seen.add(file.name)


def test_equal_contracts_have_equal_versions_in_any_order() -> None:
    a, b = contract_of("a"), contract_of("b")
    assert merged(one=a, two=b).version == merged(two=b, one=a).version != merged(one=a).version


def test_comments_make_no_difference() -> None:
    plain, told = contract_of("a"), contract_of("a")
    told.files[-1].source_code_info.location.add(leading_comments="what it does")
    assert merged(one=plain).version == merged(one=told).version


def test_names_in_json_that_are_written_out_make_no_difference() -> None:
    plain, told = shared("a_name"), shared("a_name")
    told.message_type[0].field[0].json_name = "aName"
    one, two = contract_of("a", plain), contract_of("b", told)
    assert merged(one=one, two=two).version == merged(two=one, one=two).version
    assert not merged(one=one, two=two).problems
    told.message_type[0].field[0].json_name = "another"
    (text,) = texts(merged(one=one, two=contract_of("b", told)))
    assert text == "two: its shared.Common differs from that of service one"


def test_google_files_come_from_the_own_installation() -> None:
    old = contract_of("a")
    for file in old.files:
        if file.name == "google/api/http.proto":
            file.message_type.add(name="FromAnotherRelease")
    result = merged(one=old, two=contract_of("b"))
    assert not result.problems
    (http,) = [file for file in result.files if file.name == "google/api/http.proto"]
    assert http == installed("google/api/http.proto")


def test_two_that_disagree_about_a_message_are_named_and_the_first_stays() -> None:
    first = merged(one=contract_of("a", shared("x")))
    second = merged(first, one=contract_of("a", shared("x")), another=contract_of("b", shared("y")))
    assert texts(second) == ["another: its shared.Common differs from that of service one"]
    assert second.owners == {"a.Api": "one"}


def test_a_service_whose_new_contract_does_not_fit_keeps_its_last_good_one() -> None:
    one, two = contract_of("a", shared("x")), contract_of("b", shared("x"))
    before = merged(one=one, two=two)
    after = merged(before, one=one, two=contract_of("b", shared("y")))
    assert after.accepted["two"] == two
    assert after.version == before.version
    assert texts(after) == ["two: its shared.Common differs from that of service one"]


def test_two_files_of_one_name_are_both_there_one_under_a_name_of_its_own() -> None:
    one, two = contract_of("a", shared("x")), contract_of("b", common("x", package="elsewhere"))
    result = merged(one=one, two=two)
    assert not result.problems
    assert result.transcoded == ("a.Api", "b.Api")
    assert result.pool.FindFileByName("two/shared.proto").package == "elsewhere"
    assert "two/shared.proto" in result.pool.FindFileByName("b/api.proto").dependencies[-1].name
    assert merged(result, two=two, one=one).version == result.version


def test_a_definition_that_is_there_is_imported_from_where_it_is() -> None:
    newer = shared("x")
    newer.message_type.add(name="Extra")
    newer.source_code_info.location.add(path=[4, 0], leading_comments="what is common")
    newer.source_code_info.location.add(path=[4, 1], leading_comments="what is extra")
    result = merged(one=contract_of("a", shared("x")), two=contract_of("b", newer))
    assert not result.problems
    (file,) = [file for file in result.files if file.name == "two/shared.proto"]
    assert [message.name for message in file.message_type] == ["Extra"]
    assert [file.dependency[index] for index in file.public_dependency] == ["shared.proto"]
    assert comments([file]) == {"shared.Extra": "what is extra"}


def test_one_text_in_two_syntaxes_is_two_things() -> None:
    older = shared("x")
    older.syntax = "proto2"
    result = merged(one=contract_of("a", shared("x")), two=contract_of("b", older))
    assert texts(result) == ["two: its shared.Common differs from that of service one"]


def test_a_name_of_its_own_is_nobody_elses() -> None:
    own = common("x", package="own", name="two/shared.proto")
    result = merged(one=contract_of("a", shared("x")), two=contract_of("b", common("x", package="elsewhere"), own))
    assert not result.problems
    assert result.pool.FindFileByName("two/two/shared.proto").package == "elsewhere"


def test_all_may_move_to_a_new_shared_file_together() -> None:
    before = merged(one=contract_of("a", shared("x")), two=contract_of("b", shared("x")))
    after = merged(before, one=contract_of("a", shared("y")), two=contract_of("b", shared("y")))
    assert not after.problems
    assert after.version != before.version


def test_a_grpc_service_has_one_owner() -> None:
    result = merged(one=contract_of("a"), two=contract_of("a"))
    assert result.owners == {"a.Api": "one"}
    assert texts(result) == ["two: a.Api is already offered by service one"]


def test_a_file_that_no_pool_takes_harms_nobody() -> None:
    broken = file_of("b", Get="GET /b")
    broken.message_type[0].field[2].type_name = ".nowhere.Message"
    bad = Contract(services=("b.Api",), files=(*contract_of("b").files[:-1], broken))
    result = merged(good=contract_of("a"), bad=bad, later=contract_of("c"))
    assert set(result.owners) == {"a.Api", "c.Api"}
    (text,) = texts(result)
    assert text.startswith("bad: b/api.proto cannot be used: ")
    assert result.pool.FindServiceByName("c.Api").full_name == "c.Api"


def test_a_path_that_another_service_has_costs_the_newcomer_its_rest_api_only() -> None:
    old, new = contract_of("z", Get="GET /things/{id}"), contract_of("a", Get="GET /things/{id=*}")
    first = merged(zeta=old)
    second = merged(first, zeta=old, alpha=new)
    assert second.transcoded == ("z.Api",)
    assert set(second.owners) == {"a.Api", "z.Api"}
    assert texts(second) == ["alpha: no REST API for a.Api: GET /things/* is both a.Api.Get and z.Api.Get"]


def test_one_path_twice_in_one_service_is_refused() -> None:
    result = merged(one=contract_of("a", Get="GET /a", Other="GET /a"))
    assert (result.transcoded, list(result.owners)) == ((), ["a.Api"])


def test_a_bad_template_costs_the_service_its_rest_api_only() -> None:
    result = merged(one=contract_of("a", Get="GET /a/{nothing}"), two=contract_of("b"))
    assert result.transcoded == ("b.Api",)
    assert texts(result) == ["one: no REST API for a.Api: '/a/{nothing}': a.Any has no singular field nothing"]


def test_a_service_that_left_frees_what_it_had() -> None:
    before = merged(one=contract_of("a", Get="GET /x"), two=contract_of("b", Get="GET /x"))
    after = merged(before, two=contract_of("b", Get="GET /x"))
    assert (before.transcoded, after.transcoded) == (("a.Api",), ("b.Api",))


def test_a_path_that_was_refused_is_not_won_when_somebody_else_joins() -> None:
    order, evil = contract_of("order", Get="GET /orders"), contract_of("evil", Get="GET /orders")
    first = merged(order=order)
    second = merged(first, order=order, evil=evil)
    third = merged(second, order=order, evil=evil, other=contract_of("x"))
    assert (second.transcoded, third.transcoded) == (("order.Api",), ("order.Api", "x.Api"))
    assert merged(third, order=order, evil=evil).transcoded == ("order.Api",)


def test_a_contract_that_changes_keeps_what_it_had_before_newcomers() -> None:
    before = merged(order=contract_of("order", Get="GET /orders"))
    changed = contract_of("order", Get="GET /orders", Other="POST /orders")
    after = merged(before, order=changed, evil=contract_of("evil", Get="GET /orders"))
    assert after.transcoded == ("order.Api",)
    assert after.owners["order.Api"] == "order"


def test_a_service_whose_new_contract_is_refused_keeps_its_grpc_services_before_newcomers() -> None:
    shared_by = contract_of("b", shared("x"))
    before = merged(one=contract_of("a", shared("x")), two=shared_by)
    changed = contract_of("b", shared("y"))
    after = merged(before, one=contract_of("a", shared("x")), two=changed, newcomer=contract_of("b", shared("x")))
    assert after.owners["b.Api"] == "two"


def test_a_grpc_service_goes_from_who_left_to_who_is_there_and_stays() -> None:
    api = contract_of("a")
    before = merged(old=api, new=api, absent=["new"])
    assert before.owners == {"a.Api": "old"}
    after = merged(before, old=api, new=api, absent=["old"])
    assert after.owners == {"a.Api": "new"}
    assert merged(after, old=api, new=api).owners == {"a.Api": "new"}
    assert merged(after, old=api, new=api, absent=["old", "new"]).owners == {"a.Api": "new"}


def test_paths_go_from_who_left_to_who_is_there() -> None:
    one, two = contract_of("a", Get="GET /x"), contract_of("b", Get="GET /x")
    before = merged(merged(one=one), one=one, two=two)
    assert before.transcoded == ("a.Api",)
    assert merged(before, one=one, two=two, absent=["one"]).transcoded == ("b.Api",)
    assert merged(before, one=one, two=two, absent=["one", "two"]).transcoded == ("a.Api",)


def test_the_version_does_not_depend_on_who_came_first() -> None:
    a, b = contract_of("a"), contract_of("b")
    assert merged(merged(two=b), one=a, two=b).version == merged(one=a, two=b).version
    assert merged(one=a, two=b, absent=["one"]).version == merged(one=a, two=b).version
