"""Real programs for tests: named by a variable, found on PATH, cached, or taken from Debian's package without root.

`python -m tests.debian NAME` prints the path of one, or says why there is none.
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
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
FETCH_SECONDS = 120

_MIRROR = re.compile(r"https?://[^\s\]]+/debian/?(?=\s|$)", re.MULTILINE)


class NoProgram(Exception):
    """A program cannot be had; the text says why and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One executable of one Debian package; static enough to run without being installed."""

    name: str
    package: str
    suite: str
    variable: str
    """Environment variable that names another one."""

    @property
    def cached(self) -> Path:
        """Where the fetched one is kept."""
        return ROOT / ".cache" / self.package / self.name

    def find(self, env: Mapping[str, str] = os.environ) -> Path:
        """Path of the executable, fetched if need be. Raises NoProgram."""
        if named := env.get(self.variable):
            return _named(self.variable, Path(named))
        if on_path := shutil.which(self.name, path=env.get("PATH")):
            return Path(on_path)
        if not self.cached.is_file():
            _fetch(self)
        return self.cached

    def available(self) -> bool:
        """Whether `find` has one."""
        try:
            self.find()
        except NoProgram:
            return False
        return True

    def refusal(self, reason: object) -> NoProgram:
        """What to tell when Debian's package cannot be taken."""
        return NoProgram(f"Debian's {self.package} could not be fetched: {reason}; set {self.variable} instead")


CONSUL = Program(name="consul", package="consul", suite="bullseye", variable="CONSUL_BIN")
"""Of the last Debian suite that has one."""
PROMETHEUS = Program(name="prometheus", package="prometheus", suite="bookworm", variable="PROMETHEUS_BIN")
PROMTOOL = Program(name="promtool", package="prometheus", suite="bookworm", variable="PROMTOOL_BIN")
ALERTMANAGER = Program(
    name="prometheus-alertmanager", package="prometheus-alertmanager", suite="bookworm", variable="ALERTMANAGER_BIN"
)
AMTOOL = Program(name="amtool", package="prometheus-alertmanager", suite="bookworm", variable="AMTOOL_BIN")
PROGRAMS = (CONSUL, PROMETHEUS, PROMTOOL, ALERTMANAGER, AMTOOL)


def _named(variable: str, path: Path) -> Path:
    if not os.access(path, os.X_OK) or path.is_dir():
        raise NoProgram(f"{variable} names {path}, which is no executable file")
    return path


def _fetch(program: Program) -> None:
    """Everything of the package that tests run, into the cache; a private apt state: nothing of the machine changes."""
    mirror = _mirror(program)
    program.cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.cached.parent) as folder:
        work = Path(folder)
        apt = _apt(work, mirror, program.suite)
        _run(program, [*apt, "update"], work)
        _run(program, [*apt, "download", program.package], work)
        _run(program, ["dpkg", "-x", *map(str, work.glob(f"{program.package}_*.deb")), "unpacked"], work)
        for each in PROGRAMS:
            if each.package == program.package:
                (work / "unpacked/usr/bin" / each.name).replace(each.cached)


def _mirror(program: Program) -> str:
    """The Debian mirror that this machine's apt uses."""
    if platform.machine() != "x86_64" or not shutil.which("apt-get") or not KEYRING.is_file():
        raise program.refusal(f"it needs apt-get on x86_64 and {KEYRING}")
    for source in _sources(Path("/etc/apt")):
        if found := _MIRROR.search(source.read_text(encoding="utf-8", errors="replace")):
            return found[0]
    raise program.refusal("apt's sources name no Debian mirror")


def _sources(folder: Path) -> Iterator[Path]:
    yield from sorted((folder / "sources.list.d").glob("*.sources"))
    yield from sorted((folder / "sources.list.d").glob("*.list"))
    if (folder / "sources.list").is_file():
        yield folder / "sources.list"


def _apt(work: Path, mirror: str, suite: str) -> list[str]:
    for part in ("state/lists/partial", "cache/archives/partial"):
        (work / part).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n")
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


def _run(program: Program, command: list[str], work: Path) -> None:
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise program.refusal(error) from error
    if done.returncode != 0:
        raise program.refusal(" ".join((done.stderr or done.stdout).strip().splitlines()[-1:]))


def main() -> int:
    """Print the path of the program named by the first argument."""
    named = {program.name: program for program in PROGRAMS}
    if len(sys.argv) != 2 or sys.argv[1] not in named:
        print(f"usage: python -m tests.debian {'|'.join(named)}", file=sys.stderr)
        return 2
    try:
        print(named[sys.argv[1]].find())
    except NoProgram as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
