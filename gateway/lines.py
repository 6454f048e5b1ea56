"""Streams as lines of JSON, for callers who accept `application/x-ndjson`; everybody else gets events. Pure.

How the transcoder writes a stream is fixed in its configuration, so there are two of them, and what the caller accepts
decides who is skipped. It calls lines `application/json`, which is put right afterwards.
"""

from __future__ import annotations

from typing import Final

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation as OneMutation
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.common.matching.v3.extension_matcher_pb2 import ExtensionWithMatcher
from envoy.extensions.filters.common.matcher.action.v3.skip_action_pb2 import SkipFilter
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutation, Mutations
from envoy.type.matcher.v3.http_inputs_pb2 import HttpRequestHeaderMatchInput, HttpResponseHeaderMatchInput
from google.protobuf.message import Message
from xds.core.v3.extension_pb2 import TypedExtensionConfig as XdsExtension
from xds.type.matcher.v3.matcher_pb2 import Matcher
from xds.type.matcher.v3.regex_pb2 import RegexMatcher
from xds.type.matcher.v3.string_pb2 import StringMatcher

from mesh.xds.resources import packed

LINES: Final = "application/x-ndjson"

Predicate = Matcher.MatcherList.Predicate


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
    """The first filter of all: it names the type of lines, of streams that went well and of nothing else."""
    conditions = (
        WANTED,
        _single(_response(":status"), StringMatcher(exact="200")),
        _single(_response("content-type"), StringMatcher(exact="application/json")),
        inverse(_single(_response("content-length"), _PRESENT)),  # unary answers have one
    )
    stream = Predicate(and_matcher=Predicate.PredicateList(predicate=conditions))
    header = HeaderValueOption(header=HeaderValue(key="content-type", value=LINES))
    header.append_action = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    mutations = Mutations(response_mutations=[OneMutation(append=header)])
    return unless(inverse(stream), "content-type", HeaderMutation(mutations=mutations))


def _single(what: Message, matcher: StringMatcher) -> Predicate:
    data = XdsExtension(name="header", typed_config=packed(what))
    return Predicate(single_predicate=Predicate.SinglePredicate(input=data, value_match=matcher))


def _request(header: str) -> Message:
    return HttpRequestHeaderMatchInput(header_name=header)


def _response(header: str) -> Message:
    return HttpResponseHeaderMatchInput(header_name=header)


_PRESENT: Final = StringMatcher(safe_regex=RegexMatcher(google_re2=RegexMatcher.GoogleRE2(), regex=".+"))
WANTED: Final = _single(_request("accept"), StringMatcher(contains=LINES, ignore_case=True))
"""The caller accepts lines."""
