"""Streams as lines of JSON, for callers who accept `application/x-ndjson`; everybody else gets events. Pure.

How the transcoder writes a stream is fixed in its configuration, so there are two of them, and what the caller accepts
decides who is skipped. It calls lines `application/json`, which is put right afterwards.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation as OneMutation
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.common.matching.v3.extension_matcher_pb2 import ExtensionWithMatcher
from envoy.extensions.filters.common.matcher.action.v3.skip_action_pb2 import SkipFilter
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutation, Mutations
from envoy.type.matcher.v3.http_inputs_pb2 import HttpRequestHeaderMatchInput
from google.protobuf.message import Message
from xds.core.v3.extension_pb2 import TypedExtensionConfig as XdsExtension
from xds.type.matcher.v3.matcher_pb2 import Matcher
from xds.type.matcher.v3.string_pb2 import StringMatcher

from mesh.xds.parts import packed

LINES: Final = "application/x-ndjson"

Predicate: TypeAlias = Matcher.MatcherList.Predicate


def unless(condition: Predicate, name: str, config: Message) -> ExtensionWithMatcher:
    """A filter that requests pass by when they fulfil a condition."""
    skip = Matcher.OnMatch(action=XdsExtension(name="skip", typed_config=packed(SkipFilter())))
    only = Matcher.MatcherList.FieldMatcher(predicate=condition, on_match=skip)
    return ExtensionWithMatcher(
        xds_matcher=Matcher(matcher_list=Matcher.MatcherList(matchers=[only])),
        extension_config=TypedExtensionConfig(name=name, typed_config=packed(config)),
    )


def inverse(condition: Predicate) -> Predicate:
    """The opposite."""
    return Predicate(not_matcher=condition)


def content_type() -> ExtensionWithMatcher:
    """The first filter of all: it names the type of lines, of streams that went well and of nothing else.

    It also sees answers to what no filter has seen, such as malformed requests: those keep what they have.
    """
    header = HeaderValueOption(header=HeaderValue(key="content-type", value=f"%CEL({_TYPE})%"))
    header.append_action = HeaderValueOption.OVERWRITE_IF_EXISTS
    mutations = Mutations(response_mutations=[OneMutation(append=header)])
    return unless(inverse(WANTED), "content-type", HeaderMutation(mutations=mutations))


_TYPE: Final = (
    "response.code == 200 && response.headers['content-type'] == 'application/json'"
    " && !('content-length' in response.headers)"  # unary answers have one
    f" ? '{LINES}' : response.headers['content-type']"
)


_ACCEPT: Final = XdsExtension(name="accept", typed_config=packed(HttpRequestHeaderMatchInput(header_name="accept")))
WANTED: Final = Predicate(
    single_predicate=Predicate.SinglePredicate(
        input=_ACCEPT, value_match=StringMatcher(contains=LINES, ignore_case=True)
    )
)
"""The caller accepts lines."""
