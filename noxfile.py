"""What this project is held to, one session each: `nox -l`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.error_on_external_run = False

BIN = Path(sys.executable).parent
DESCRIPTORS = "gen/descriptors.binpb"


@nox.session
def tests(session: nox.Session) -> None:
    """All tests; what they need they start themselves."""
    session.run(sys.executable, "-m", "pytest", *session.posargs)


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """A whole stack under load loses one part after the other, and no call."""
    session.run(sys.executable, "-m", "pytest", "tests/faults", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure: `nox -s bench -- start`."""
    name, *rest = session.posargs or ("start",)
    session.run(sys.executable, "-m", f"bench.{name}", *rest)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and imports that go one way."""
    session.run(str(BIN / "ruff"), "check", ".")
    session.run(str(BIN / "lint-imports"), "--no-cache")


@nox.session
def typing(session: nox.Session) -> None:
    """Types, strictly."""
    session.run(str(BIN / "mypy"))


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Make requirements.lock anew; `nox -s lock -- --upgrade` takes newer versions."""
    session.run(
        str(BIN / "uv"), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes",
        "--no-emit-index-url", "--no-emit-find-links", "--all-extras", "--group", "services", "--group", "dev",
        "--custom-compile-command", "nox -s lock", "--output-file", "requirements.lock", "pyproject.toml",
        *session.posargs,
    )


@nox.session
def protos(session: nox.Session) -> None:
    """Generated code is fresh; the contracts are well-formed and break nobody who uses the last released ones."""
    session.run(sys.executable, "-m", "protos.generate", "--check")
    buf = str(BIN / "buf")
    session.run(buf, "lint")
    session.run(buf, "format", "--diff", "--exit-code", "protos")
    base = _released()
    if base is None:
        session.log("buf breaking: no tag and no main branch with contracts, so there is nothing to compare against")
        return
    session.log(f"buf breaking: comparing against {base}")
    before = Path(session.create_tmp()) / "released.binpb"
    before.write_bytes(_git("show", f"{base}:{DESCRIPTORS}"))
    session.run(buf, "breaking", DESCRIPTORS, "--against", str(before))


def _released() -> str | None:
    """The newest tag, else main, if it has contracts."""
    tag = _git("describe", "--tags", "--abbrev=0").decode().strip()
    for ref in filter(None, (tag, "main", "origin/main")):
        if _git("ls-tree", "--name-only", ref, DESCRIPTORS):
            return ref
    return None


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""
