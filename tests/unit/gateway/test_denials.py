"""What Envoy refused is told once, by what denies it."""

from __future__ import annotations

from gateway.denials import refused, since

PAGE = """\
# TYPE envoy_http_rbac_policy_denied counter
envoy_http_rbac_policy_denied{envoy_rbac_policy_name="by:gateway=>order#2",envoy_rbac_http_prefix="intentions"} 3
envoy_http_rbac_policy_denied{envoy_rbac_policy_name="by:default:gateway=>sync",envoy_rbac_http_prefix="intentions"} 1
"""


def test_refusals_are_counted_by_what_denies_them() -> None:
    assert refused(PAGE) == {"gateway=>order#2": 3, "default:gateway=>sync": 1}


def test_only_what_is_new_is_told_also_of_an_envoy_that_was_started_again() -> None:
    assert [*since({"a": 3, "b": 2, "c": 5}, {"a": 3, "b": 4, "c": 1, "d": 1})] == [("b", 2), ("c", 1), ("d", 1)]
