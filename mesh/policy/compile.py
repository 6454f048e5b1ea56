"""Contract, service config and config entries, weakest first, compiled into the policy of one service. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from mesh.contract import Contract, Method
from mesh.policy.chain import Chain, Link
from mesh.policy.entries import Entries, Rule, source
from mesh.policy.model import (
    CONTRACT,
    DEFAULT,
    DEFAULT_TIMEOUT_SECONDS,
    REPORTED,
    Balance,
    Balancing,
    Destination,
    Limits,
    Match,
    MethodPolicy,
    OutlierDetection,
    Policy,
    Retry,
    Route,
    Selection,
    Target,
)
from mesh.policy.reading import refuse
from mesh.policy.said import NONE, Said, good
from mesh.policy.service_config import NOTHING, MethodConfig, ServiceConfig

T = TypeVar("T")


def compiled(
    service: str, contract: Contract, config: ServiceConfig = NOTHING, entries: Entries = NONE
) -> Policy:
    """The policy of a service. InvalidConfig, with where it was said and the path of every fault, for a bad one."""
    said, faults = good(service, contract, config, entries)
    refuse(faults)
    return made(service, contract, said)


def made(service: str, contract: Contract, said: Said) -> Policy:
    """The policy of a service, of what was good once: also for another contract. What is said of a method that the
    contract does not have holds for none, and no retries for one that it does not let be sent again. Without any
    contract the methods are those that are named with a deadline, and none is sent again.
    """
    own, config, entries = said.own, said.config, said.entries
    chain = Chain(service, entries)
    links = chain.links()
    balancing = Balancing(kind=Balance.WEIGHTED_ROUND_ROBIN, source=REPORTED) if contract.reports_load else Balancing()
    methods = {path: _method_policy(method, own, config) for path, method in contract.methods.items()}
    led_to = chain.resolve(Target(service)).service
    asked, origin = Rule(timeout_seconds=entries.resolver(led_to).timeout_seconds), source("service-resolver", led_to)
    named = methods if contract.services else dict(_named(own, config))
    methods = {path: _over(policy, asked, origin) for path, policy in named.items()}
    others = _over(_of_all(own, config), asked, origin)
    return Policy(
        methods=_unconditional(methods, links),
        fallback=_fallback(others, links),
        routes=tuple(_routes(methods, others, links)),
        destinations=_destinations(service, chain, entries, (config, own), balancing),
        permissive=permissive(service, config, entries),
    )


def permissive(service: str, config: ServiceConfig, entries: Entries) -> str:
    """Who says that instances of a service may be called though they speak no TLS; empty where nobody does."""
    if entries.defaults(service).permissive:
        return source("service-defaults", service)
    return config.source if config.permissive else ""


def reachable(service: str, entries: Entries) -> frozenset[str]:
    """The services whose instances the calls for a service may meet, itself included."""
    found, asked = {service}, [service]
    while asked:
        name = asked.pop()
        chain = Chain(name, entries)
        names = {target.service for target in (*_led_to(chain), *_own_failovers(name, chain, entries))}
        asked += names - found
        found |= names
    return frozenset(found)


def _led_to(chain: Chain) -> Iterator[Target]:
    for link in chain.links():
        for share in link.shares:
            yield share.target
            yield from chain.failover(share.target)


def _own_failovers(service: str, chain: Chain, entries: Entries) -> Iterator[Target]:
    """Of the service's own targets, which are kept ready whether calls are led there now or not."""
    for subset in ("", *entries.resolver(service).subsets):
        yield from chain.failover(Target(service, subset))


def _method_policy(method: Method, own: ServiceConfig, config: ServiceConfig) -> MethodPolicy:
    """The defaults, and what the stronger of the service configs that name the method says."""
    policy = MethodPolicy(
        timeout_seconds=DEFAULT_TIMEOUT_SECONDS if method.unary else None,
        retry=Retry() if method.idempotent else None,
        retry_source=DEFAULT if method.idempotent else CONTRACT,
        unary=method.unary,
        idempotent=method.idempotent,
    )
    for said in (config, own):
        if named := said.method(method.path):
            return _said(policy, named, said.source)
    return policy


def _named(own: ServiceConfig, config: ServiceConfig) -> Iterator[tuple[str, MethodPolicy]]:
    """By path, what is known of methods without a contract: the deadlines that were said of them."""
    for said in (own, config):
        for named in said.methods:
            if named.method and named.timeout_seconds is not None:
                yield f"/{named.service}/{named.method}", _said(MethodPolicy(), named, said.source)


def _of_all(own: ServiceConfig, config: ServiceConfig) -> MethodPolicy:
    """What is said of all methods, for those that no contract names: of streams as well, so without the default."""
    for said in (config, own):
        for named in said.methods:
            if not named.service:
                return _said(MethodPolicy(), named, said.source)
    return MethodPolicy()


def _said(policy: MethodPolicy, named: MethodConfig, origin: str) -> MethodPolicy:
    if named.timeout_seconds is not None:
        policy = replace(policy, timeout_seconds=named.timeout_seconds, timeout_source=origin)
    if policy.idempotent:
        policy = replace(policy, retry=named.retry, retry_source=origin)
    return policy


def _over(policy: MethodPolicy, rule: Rule, origin: str) -> MethodPolicy:
    """A policy with what a router's rule says; its retries reach idempotent methods only."""
    if rule.timeout_seconds is not None:
        policy = replace(policy, timeout_seconds=rule.timeout_seconds, timeout_source=origin)
    if policy.idempotent and (rule.attempts or rule.codes):
        before = policy.retry or Retry()
        retry = replace(before, attempts=rule.attempts or before.attempts, codes=rule.codes or before.codes)
        policy = replace(policy, retry=retry, retry_source=origin)
    return policy


def _routes(
    methods: Mapping[str, MethodPolicy], others: MethodPolicy, links: Iterable[Link]
) -> Iterator[Route]:
    """For each link the methods that it takes and that no earlier one took for good, then whatever else it matches."""
    left = dict(methods)
    for link in links:
        match = link.rule.match
        for path in [path for path in left if match.covers(path)]:
            policy = left[path] if match.conditions else left.pop(path)
            yield _route(link, replace(match, path=path, prefix="", regex=""), policy)
        if match.path not in methods:
            yield _route(link, match, others)


def _route(link: Link, match: Match, policy: MethodPolicy) -> Route:
    return Route(match=match, method=_over(policy, link.rule, link.source), shares=link.shares, source=link.source)


def _unconditional(methods: Mapping[str, MethodPolicy], links: tuple[Link, ...]) -> Mapping[str, MethodPolicy]:
    """What holds for calls without any header that a router looks at."""
    def first(path: str) -> Link:
        return next(link for link in links if not link.rule.match.conditions and link.rule.match.covers(path))

    return {path: _over(policy, (link := first(path)).rule, link.source) for path, policy in methods.items()}


def _fallback(others: MethodPolicy, links: tuple[Link, ...]) -> MethodPolicy:
    """What holds for methods that no contract names, without any header that a router looks at."""
    link = next(link for link in links if link.rule.match.everything)
    policy = _over(others, link.rule, link.source)
    return policy if policy.timeout_seconds is not None else replace(policy, timeout_seconds=DEFAULT_TIMEOUT_SECONDS)


def _destinations(
    service: str, chain: Chain, entries: Entries, configs: tuple[ServiceConfig, ...], balancing: Balancing
) -> Mapping[str, Destination]:
    resolver, origin = entries.resolver(service), source("service-resolver", service)
    base = Destination(
        target=Target(service),
        balancing=resolver.balancing or _first((c.balancing for c in configs), balancing),
        outlier_detection=_first((c.outlier_detection for c in configs), OutlierDetection()),
        limits=_first((c.limits for c in configs), Limits()),
    )
    if resolver.connect_timeout_seconds is not None:
        base = replace(
            base, connect_timeout_seconds=resolver.connect_timeout_seconds, connect_timeout_source=origin
        )
    selections = {"": Selection(), **resolver.subsets}
    return {
        subset: _destination(replace(base, target=Target(service, subset), selection=selection), chain, origin)
        for subset, selection in selections.items()
    }


def _destination(base: Destination, chain: Chain, origin: str) -> Destination:
    failover = chain.failover(base.target)
    return replace(base, failover=failover, failover_source=origin) if failover else base


def _first(found: Iterable[T | None], default: T) -> T:
    return next((value for value in found if value is not None), default)
