"""What the edge does to REST requests, and to no other: what a caller's headers must not do to a gRPC call. Pure.

A header is passed on as metadata. Those that gRPC itself reads would let a caller make any call fail: `-bin` ones that
are not base64, encodings that nobody knows, counts that are no numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation as OneMutation
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.common.matching.v3.extension_matcher_pb2 import ExtensionWithMatcher
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutation, Mutations
from envoy.extensions.filters.http.lua.v3.lua_pb2 import Lua
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as RbacFilter
from envoy.type.matcher.v3.http_inputs_pb2 import HttpRequestHeaderMatchInput
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from xds.core.v3.extension_pb2 import TypedExtensionConfig as XdsExtension
from xds.type.matcher.v3 import string_pb2
from xds.type.matcher.v3.regex_pb2 import RegexMatcher as XdsRegex

from gateway.lines import Predicate, inverse, unless
from gateway.refusals import PLAIN_BODIES
from mesh.errors import DOMAIN, Code
from mesh.xds.parts import packed

GRPC_TYPE: Final = "application/grpc"
"""What the content type of every gRPC call begins with, gRPC-Web included."""

TOLD: Final = "meshwright"
"""Metadata of a REST request whose call failed: its `status` is the name of the code, for spans."""

_BOTH_WAYS: Final = ("grpc-status", "grpc-message", "grpc-encoding", "grpc-accept-encoding")
_ANSWERS: Final = (*_BOTH_WAYS, "grpc-status-details-bin")
_REQUESTS: Final = (*_BOTH_WAYS, "grpc-previous-rpc-attempts")


def _header(name: str, matcher: string_pb2.StringMatcher) -> Predicate:
    made = HttpRequestHeaderMatchInput(header_name=name)
    return Predicate(single_predicate=Predicate.SinglePredicate(
        input=XdsExtension(name=name, typed_config=packed(made)), value_match=matcher
    ))


_GRPC: Final = _header("content-type", string_pb2.StringMatcher(prefix=GRPC_TYPE))
_SOMETHING: Final = XdsRegex(google_re2=XdsRegex.GoogleRE2(), regex=".+")
_TRANSCODED: Final = _header("x-envoy-original-method", string_pb2.StringMatcher(safe_regex=_SOMETHING))


def plain_headers() -> ExtensionWithMatcher:
    """Before the transcoder: takes gRPC's own headers out of REST requests and out of the answers to them.

    `grpc-timeout` stays: that is how a REST caller sets a deadline.
    """
    requests = [OneMutation(remove=name) for name in _REQUESTS]
    requests.append(OneMutation(remove_on_match=OneMutation.RemoveOnMatch(key_matcher=StringMatcher(suffix="-bin"))))
    answers = [OneMutation(remove=name) for name in _ANSWERS]
    mutations = Mutations(request_mutations=requests, response_mutations=answers)
    return unless(_GRPC, "plain headers", HeaderMutation(mutations=mutations))


def plain_bodies() -> RbacFilter:
    """Refuses bodies with a Content-Encoding: the transcoder would read what is packed as JSON."""
    packed_body = Permission(and_rules=Permission.Set(rules=[
        Permission(header=HeaderMatcher(name="content-encoding", present_match=True)),
        Permission(not_rule=Permission(header=HeaderMatcher(name="content-encoding", string_match=_IDENTITY))),
    ]))
    policy = Policy(permissions=[packed_body], principals=[Principal(any=True)])
    return RbacFilter(rules=RBAC(action=RBAC.DENY, policies={PLAIN_BODIES: policy}))


_IDENTITY: Final = StringMatcher(exact="identity", ignore_case=True)


def error_info() -> ExtensionWithMatcher:
    """After the transcoder: gives errors without details an ErrorInfo, so that REST callers see one shape."""
    names = ", ".join(f'[{int(code)}] = "{code.name}"' for code in Code if code)
    code = f"local REASONS = {{{names}}}\nlocal DOMAIN = \"{DOMAIN}\"\nlocal TOLD = \"{TOLD}\"\n{_LUA.read_text()}"
    lua = Lua(default_source_code=DataSource(inline_string=code))
    return unless(inverse(_TRANSCODED), "error info", lua)


_LUA: Final = Path(__file__).with_name("error_info.lua")
