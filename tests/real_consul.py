"""A real Consul for tests: CONSUL_BIN, `consul` on PATH, a cached one, or Debian's package taken without root.

`python -m tests.real_consul` prints the path of the binary, or says why there is none.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHED = ROOT / ".cache" / "consul" / "consul"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITE = "bullseye"  # the last Debian suite that has a Consul
FETCH_SECONDS = 120

_MIRROR = re.compile(r"https?://[^\s\]]+/debian/?(?=\s|$)", re.MULTILINE)


class NoConsul(Exception):
    """No real Consul can be had; the text says why and what to do."""


def find_consul(env: Mapping[str, str] = os.environ) -> Path | None:
    """Path of a Consul binary; None when there is none."""
    try:
        return consul_binary(env)
    except NoConsul:
        return None


def consul_binary(env: Mapping[str, str] = os.environ) -> Path:
    """Path of a Consul binary, fetched if need be. Raises NoConsul."""
    if named := env.get("CONSUL_BIN"):
        return _named(Path(named))
    if on_path := shutil.which("consul", path=env.get("PATH")):
        return Path(on_path)
    if not CACHED.is_file():
        _fetch()
    return CACHED


def _named(path: Path) -> Path:
    if not os.access(path, os.X_OK) or path.is_dir():
        raise NoConsul(f"CONSUL_BIN names {path}, which is no executable file")
    return path


def _fetch() -> None:
    """Debian's package into the cache: a private apt state, so that nothing of the machine changes."""
    mirror = _mirror()
    CACHED.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHED.parent) as folder:
        work = Path(folder)
        apt = _apt(work, mirror)
        _run([*apt, "update"], work)
        _run([*apt, "download", "consul"], work)
        _run(["dpkg", "-x", *map(str, work.glob("consul_*.deb")), "unpacked"], work)
        (work / "unpacked/usr/bin/consul").replace(CACHED)


def _mirror() -> str:
    """The Debian mirror that this machine's apt uses."""
    if platform.machine() != "x86_64" or not shutil.which("apt-get") or not KEYRING.is_file():
        raise NoConsul(f"Debian's package needs apt-get on x86_64 and {KEYRING}; set CONSUL_BIN to a Consul instead")
    for source in _sources(Path("/etc/apt")):
        if found := _MIRROR.search(source.read_text(encoding="utf-8", errors="replace")):
            return found[0]
    raise NoConsul("apt's sources name no Debian mirror; set CONSUL_BIN to a Consul instead")


def _sources(folder: Path) -> Iterator[Path]:
    yield from sorted((folder / "sources.list.d").glob("*.sources"))
    yield from sorted((folder / "sources.list.d").glob("*.list"))
    if (folder / "sources.list").is_file():
        yield folder / "sources.list"


def _apt(work: Path, mirror: str) -> list[str]:
    for part in ("state/lists/partial", "cache/archives/partial"):
        (work / part).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"deb [arch=amd64 signed-by={KEYRING}] {mirror} {SUITE} main\n")
    options = {
        "Dir::Etc::sourcelist": str(work / "sources.list"),
        "Dir::Etc::sourceparts": "-",
        "Dir::State": str(work / "state"),
        "Dir::State::status": str(work / "status"),
        "Dir::Cache": str(work / "cache"),
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "15",
    }
    return ["apt-get", "-q", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def _run(command: list[str], work: Path) -> None:
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoConsul(f"Debian's Consul could not be fetched: {error}; set CONSUL_BIN to a Consul instead") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NoConsul(f"Debian's Consul could not be fetched: {' '.join(said)}; set CONSUL_BIN to a Consul instead")


def main() -> int:
    """Print the path of a Consul binary."""
    try:
        print(consul_binary())
    except NoConsul as error:
        print(f"no real Consul: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
