"""Keys of config entries in Consul's own spelling, however they were written: `num_retries` is `NumRetries` (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORDS = """
    Action CaseInsensitive ChoiceCount Config ConnectTimeout Contains CookieConfig Datacenter Datacenters
    DefaultSubset Description Destination Exact Failover Field FieldValue Filter HTTP HashPolicies Header
    IdleTimeout IgnoreCase Invert LeastRequestConfig LoadBalancer Match MaximumRingSize Meta Methods MinimumRingSize
    Name Namespace NumRetries OnlyPassing Partition PathExact PathPrefix PathRegex Peer Permissions Policy Prefix
    PrefixRewrite Present Protocol QueryParam Redirect Regex RequestHeaders RequestTimeout ResponseHeaders RetryOn
    RetryOnConnectFailure RetryOnStatusCodes RingHashConfig Routes Service ServiceSubset SourceIP Sources Splits
    Subsets Suffix Targets Terminal UpstreamConfig Weight
"""
_SPELLING = {word.lower(): word for word in _WORDS.split()}

_NAMED = ("Subsets", "Failover")
"""Whose keys are names that users chose."""

_FREE = ("Meta", "Config")
"""Whose content is the user's own."""


def spelled(content: Any) -> Any:
    """Content with every key that is known in Consul's spelling."""
    if isinstance(content, list):
        return [spelled(one) for one in content]
    if not isinstance(content, Mapping):
        return content
    return {(word := _word(key)): _inside(word, value) for key, value in content.items()}


def _word(key: str) -> str:
    return _SPELLING.get(key.replace("_", "").lower(), key)


def _inside(word: str, value: Any) -> Any:
    if word in _FREE:
        return value
    if word in _NAMED and isinstance(value, Mapping):
        return {name: spelled(one) for name, one in value.items()}
    return spelled(value)
