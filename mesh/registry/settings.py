"""Where the registry is and how to be let in, from the variables that Consul's own tools read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from mesh.errors import InvalidConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT = 8500
FORMS = "write it as host:port, http://host:port or https://host:port"


@dataclass(frozen=True, kw_only=True)
class RegistrySettings:
    """One registry and how to talk to it. Any spelling of the address becomes `scheme://host:port`."""

    address: str = "127.0.0.1:8500"
    token: str = field(default="", repr=False)
    """ACL token; empty sends none, whatever the environment says."""

    datacenter: str = ""
    """Datacenter to ask; empty means the agent's own."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = field(default="", repr=False)
    verify: bool = True
    """Whether the certificate of an https registry is checked."""

    wait_seconds: float = 55.0
    """How long the registry may hold a blocking query."""

    call_timeout_seconds: float = 10.0
    """Deadline of every call that does not block."""

    watch_connections: int = 150
    """Connections for watches. A Consul agent drops the 201st of one client address by default."""

    deregister_after_seconds: float = 600.0
    """An instance whose check was critical for so long is removed (its host died). Consul's minimum is 60."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", normal_address(self.address))

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read CONSUL_HTTP_{ADDR,TOKEN,TOKEN_FILE,SSL,SSL_VERIFY} and CONSUL_{CACERT,CLIENT_CERT,CLIENT_KEY}.

        Raises InvalidConfig with every problem found.
        """
        problems: list[str] = []
        address = _address(env, problems)
        token = _token(env, problems)
        ca, cert, key = (_file(env, name, problems) for name in _FILES)
        if problems:
            raise InvalidConfig.of(problems)
        verify = _true(env.get("CONSUL_HTTP_SSL_VERIFY", "true"))
        return cls(address=address, token=token, verify=verify, ca_file=ca, cert_file=cert, key_file=key)

    @property
    def host(self) -> str:
        """Host part of the address, without the brackets of IPv6."""
        return urlsplit(self.address).hostname or ""

    @property
    def port(self) -> int:
        """Port part of the address."""
        return urlsplit(self.address).port or DEFAULT_PORT

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return urlsplit(self.address).scheme


_FILES = ("CONSUL_CACERT", "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY")


def normal_address(text: str) -> str:
    """`scheme://host:port` of an address in any form that CONSUL_HTTP_ADDR may take. Raises InvalidConfig."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidConfig.of([f"registry address {text!r}: {error}; {FORMS}"]) from error
    problem = _address_problem(parts.scheme, host, parts.path, parts.query)
    if problem or host is None:
        raise InvalidConfig.of([f"registry address {text!r}: {problem}; {FORMS}"])
    port = port or (443 if parts.scheme == "https" else DEFAULT_PORT if "://" not in text else 80)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _address_problem(scheme: str, host: str | None, path: str, query: str) -> str:
    if scheme == "unix":
        return "Unix sockets are not supported"
    if scheme not in ("http", "https"):
        return f"unknown scheme {scheme!r}"
    if not host:
        return "the host is missing"
    return "it must not have a path" if path.strip("/") or query else ""


def _address(env: Mapping[str, str], problems: list[str]) -> str:
    text = env.get("CONSUL_HTTP_ADDR", "").strip() or f"127.0.0.1:{DEFAULT_PORT}"
    try:
        address = normal_address(text)
    except InvalidConfig as error:
        problems.append(f"CONSUL_HTTP_ADDR: {error.message}")
        return ""
    if _true(env.get("CONSUL_HTTP_SSL", "")) and "://" not in text:
        return address.replace("http://", "https://", 1)
    return address


def _token(env: Mapping[str, str], problems: list[str]) -> str:
    if token := env.get("CONSUL_HTTP_TOKEN", "").strip():
        return token
    path = _file(env, "CONSUL_HTTP_TOKEN_FILE", problems)
    return Path(path).read_text(encoding="utf-8").strip() if path else ""


def _file(env: Mapping[str, str], name: str, problems: list[str]) -> str:
    path = env.get(name, "")
    if path and not Path(path).is_file():
        problems.append(f"{name}: there is no file {path!r}")
        return ""
    return path


def _true(text: str) -> bool:
    return text.strip().lower() in ("1", "t", "true")
