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
    """All tests, by three workers, as most of them wait; what they need they start themselves."""
    workers = ("--numprocesses", "3", "--dist", "loadscope", "--no-loadscope-reorder")
    session.run(sys.executable, "-m", "pytest", *workers, *session.posargs)


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """A whole stack under load loses one part after the other, and no call."""
    session.run(sys.executable, "-m", "pytest", "tests/faults", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure: `nox -s bench -- NAME`; docs/benchmarks.md names all."""
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
        session.log("buf breaking: no release yet, and no change to the contracts here: nothing to compare against")
        return
    session.log(f"buf breaking: comparing against {base}")
    before = Path(session.create_tmp()) / "released.binpb"
    before.write_bytes(_git("show", f"{base}:{DESCRIPTORS}"))
    session.run(buf, "breaking", DESCRIPTORS, "--against", str(before))


def _released() -> str | None:
    """The commit whose contracts users have: of the newest tag, else before what was changed here; None for no change.

    "Here" is the branch since it left main; on main itself the working tree, else the last commit.
    """
    if tag := _said("describe", "--tags", "--abbrev=0"):
        return tag if _git("show", f"{tag}:{DESCRIPTORS}") else None
    head = _said("rev-parse", "HEAD")
    fork = _said("merge-base", "HEAD", "origin/main") or _said("merge-base", "HEAD", "main")
    now = Path(DESCRIPTORS).read_bytes()
    for ref in [fork] if fork and fork != head else ["HEAD", "HEAD~1"]:
        if _git("show", f"{ref}:{DESCRIPTORS}") not in (b"", now):
            return ref
    return None


def _said(*arguments: str) -> str:
    return _git(*arguments).decode().strip()


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""
