"""What pages of other origins may do: CORS, for REST and gRPC-Web alike. Pure.

https://fetch.spec.whatwg.org/#http-cors-protocol. Callers are never asked for cookies, so `*` is allowed for headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from envoy.extensions.filters.http.cors.v3.cors_pb2 import CorsPolicy
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.wrappers_pb2 import BoolValue

_ANY_PORT: Final = ":*"
_VERBS: Final = "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"
_PREFLIGHT_SECONDS: Final = 3600


def cors_policy(origins: Iterable[str]) -> CorsPolicy:
    """The policy for these origins, as `EdgeSettings.cors_origins` has them."""
    return CorsPolicy(
        allow_origin_string_match=[_matcher(origin) for origin in origins],
        allow_methods=_VERBS,
        # A gRPC-Web caller sends its metadata as headers, whatever they are called; the star never means this one.
        allow_headers="*, authorization",
        expose_headers="*",
        max_age=str(_PREFLIGHT_SECONDS),
        # No service sees a preflight; without these headers in the answer the browser refuses by itself.
        forward_not_matching_preflights=BoolValue(value=False),
    )


def _matcher(origin: str) -> StringMatcher:
    if origin == "*":
        return StringMatcher(safe_regex=RegexMatcher(regex=".*"))
    if origin.endswith(_ANY_PORT):
        host = re.escape(origin.removesuffix(_ANY_PORT))
        return StringMatcher(safe_regex=RegexMatcher(regex=host + "(?::[0-9]+)?"))
    return StringMatcher(exact=origin)
