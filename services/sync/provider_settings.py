"""Where the providers of users are, and how hard each may be asked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mesh import Variables

PROVIDER = "scim"
"""The name of the only provider, unless told otherwise."""

MOST_PROVIDERS = 20
_PROVIDER_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True, kw_only=True)
class ProviderSettings:
    """One provider, and how hard it may be asked. Variables are those of the first one."""

    name: str = PROVIDER
    """In SCIM_PROVIDERS: the namespace of its users."""
    url: str = field(default="", repr=False)
    """SCIM_URL: base of its endpoints, as in https://idp.example/scim/v2."""
    token: str = field(default="", repr=False)
    """SCIM_TOKEN: bearer token; empty for none."""
    page_size: int = 200
    """SCIM_PAGE_SIZE: users asked for at once; a provider may answer fewer."""
    concurrency: int = 8
    """SCIM_CONCURRENCY: pages in flight."""
    timeout_seconds: float = 15.0
    """SCIM_TIMEOUT_SECONDS: for one page."""
    attempts: int = 8
    """SCIM_ATTEMPTS: how often a page is asked for before the run fails: about half a minute, with their back-off."""
    vanish_limit: float = 0.5
    """SCIM_VANISH_LIMIT: largest share of the active users that one run takes for vanished, a few aside."""

    @classmethod
    def read(cls, variables: Variables) -> tuple[Self, ...]:
        """All that SCIM_PROVIDERS names; none when neither that nor SCIM_URL is set."""
        if not variables.text("SCIM_PROVIDERS") and not variables.text("SCIM_URL"):
            return ()
        names = _names(variables)
        return tuple(cls._read(variables, name, first=name == names[0]) for name in names)

    @classmethod
    def _read(cls, variables: Variables, name: str, *, first: bool) -> Self:
        """One provider. The URL and the token of the first one are never another one's; numbers hold for all."""
        named = partial(_named, variables, name)
        url = _named(variables, name, "URL") if first else _variable(name, "URL")
        # A token that goes with the first one's URL never travels to another place.
        token = _named(variables, name, "TOKEN") if url == "SCIM_URL" else _variable(name, "TOKEN")
        return cls(
            name=name,
            url=_url(variables, url),
            token=_token(variables, token),
            page_size=variables.integer(named("PAGE_SIZE"), cls.page_size, minimum=1, maximum=10_000),
            concurrency=variables.integer(named("CONCURRENCY"), cls.concurrency, minimum=1, maximum=100),
            timeout_seconds=variables.number(named("TIMEOUT_SECONDS"), cls.timeout_seconds, minimum=0.01),
            attempts=variables.integer(named("ATTEMPTS"), cls.attempts, minimum=1, maximum=20),
            vanish_limit=variables.number(named("VANISH_LIMIT"), cls.vanish_limit, maximum=1.0),
        )


def _names(variables: Variables) -> tuple[str, ...]:
    """The names in SCIM_PROVIDERS: the namespaces of users. The first one is meant where none is named."""
    found = tuple(name.strip() for name in variables.text("SCIM_PROVIDERS", PROVIDER).split(","))
    wrong = [name for name in found if not _PROVIDER_NAME.fullmatch(name)]
    if wrong:
        variables.problems.append(f"SCIM_PROVIDERS: {wrong[0]!r} is no name of at most 40 letters a-z, digits and '-'")
    if len({_variable(name, "") for name in found}) < len(found) or len(found) > MOST_PROVIDERS:
        variables.problems.append(f"SCIM_PROVIDERS must be at most {MOST_PROVIDERS} names, each once")
    return found


def _variable(provider: str, what: str) -> str:
    """The variable that says something about a provider, as in SCIM_CORP_URL."""
    return f"SCIM_{provider.upper().replace('-', '_')}_{what}"


def _named(variables: Variables, provider: str, what: str) -> str:
    """A provider's own variable where it is set, else the one of all."""
    own = _variable(provider, what)
    return own if variables.text(own) else f"SCIM_{what}"


def _url(variables: Variables, name: str) -> str:
    """A base URL; problems do not repeat it, as it may hold a password where it must not."""
    url = variables.text(name)
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not url:
        variables.problems.append(f"{name} is missing")
    elif not good:
        variables.problems.append(f"{name} must begin with http:// or https:// and a host")
    elif "@" in parts.netloc or parts.query or parts.fragment:
        variables.problems.append(f"{name} must have no user, query or fragment: secrets go into a SCIM_..._TOKEN")
    return url


def _token(variables: Variables, name: str) -> str:
    token = variables.text(name)
    if token and not _TOKEN.fullmatch(token):
        variables.problems.append(f"{name} has characters that no bearer token has (RFC 6750, 2.1)")
    return token
