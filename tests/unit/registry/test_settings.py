"""Where the registry is: every form of address, and what the environment says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mesh.errors import InvalidConfig
from mesh.registry import RegistrySettings


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8500", "http://127.0.0.1:8500"),
        ("consul.local:80", "http://consul.local:80"),
        ("consul.local", "http://consul.local:8500"),
        ("http://consul.local:8501", "http://consul.local:8501"),
        ("http://consul.local", "http://consul.local:80"),
        ("https://consul.local", "https://consul.local:443"),
        ("https://consul.local:8501/", "https://consul.local:8501"),
        ("[::1]:8500", "http://[::1]:8500"),
        ("http://[::1]:8500", "http://[::1]:8500"),
    ],
)
def test_address_forms(text: str, address: str) -> None:
    settings = RegistrySettings(address=text)
    assert settings.address == address
    assert RegistrySettings(address=address) == settings


def test_address_has_its_parts() -> None:
    settings = RegistrySettings(address="https://[::1]:8501")
    assert (settings.scheme, settings.host, settings.port) == ("https", "::1", 8501)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unix:///run/consul.sock", "Unix sockets are not supported"),
        ("ftp://consul.local", "unknown scheme"),
        ("http://", "the host is missing"),
        (":8500", "the host is missing"),
        ("host:port", "port"),
        ("host:99999", "port"),
        ("http://host:8500/v1", "must not have a path"),
    ],
)
def test_bad_address_says_how_to_write_it(text: str, words: str) -> None:
    with pytest.raises(InvalidConfig, match=words) as caught:
        RegistrySettings.from_env({"CONSUL_HTTP_ADDR": text})
    assert "CONSUL_HTTP_ADDR" in caught.value.message
    assert "host:port" in caught.value.message


def test_empty_environment_means_the_local_agent() -> None:
    assert RegistrySettings.from_env({}) == RegistrySettings(address="127.0.0.1:8500")
    assert RegistrySettings.from_env({"CONSUL_HTTP_ADDR": ""}) == RegistrySettings()


def test_tls_from_the_environment(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    env = {
        "CONSUL_HTTP_ADDR": "consul:8501", "CONSUL_HTTP_SSL": "true", "CONSUL_HTTP_SSL_VERIFY": "false",
        "CONSUL_CACERT": str(authority),
    }  # fmt: skip
    settings = RegistrySettings.from_env(env)
    assert (settings.address, settings.verify, settings.ca_file) == ("https://consul:8501", False, str(authority))


def test_token_comes_from_variable_or_file_and_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    from_file = RegistrySettings.from_env({"CONSUL_HTTP_TOKEN_FILE": str(file)})
    both = RegistrySettings.from_env({"CONSUL_HTTP_TOKEN_FILE": str(file), "CONSUL_HTTP_TOKEN": "direct"})
    assert (from_file.token, both.token) == ("from-file", "direct")
    assert "direct" not in repr(both)


def test_importing_the_registry_is_cheap() -> None:
    """Its client, with py-consul and aiohttp, is imported by who connects."""
    code = "import sys, mesh.registry; sys.exit(bool({'aiohttp', 'consul', 'requests'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all_problems_are_reported_together() -> None:
    env = {"CONSUL_HTTP_ADDR": "unix:///x", "CONSUL_CACERT": "/no/such/file", "CONSUL_HTTP_TOKEN_FILE": "/none"}
    with pytest.raises(InvalidConfig) as caught:
        RegistrySettings.from_env(env)
    assert [line.split(":")[0] for line in caught.value.message.splitlines()] == [
        "CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN_FILE", "CONSUL_CACERT",
    ]  # fmt: skip
