"""How long a start takes, and where the time goes: `nox -s bench -- start [RUNS]`.

`make up` and `mesh up` are run in the background until all is ready, on a stack whose data exist (warm). When each
process was ready comes from the launcher's log; what its imports cost, from `python -X importtime`.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from mesh.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
AIMS_SECONDS = {"make up": 10.0, "mesh up": 6.0}
MODULES = {
    "launcher": "mesh.cli, mesh.up.launcher",
    "launcher, later": "mesh.cli, mesh.up.launcher, mesh.up.service, mesh.attach",
    "sidecar": "mesh.sidecar",
    "registry": "mesh.registry.__main__",
    "gateway": "gateway.__main__",
    "console": "console.__main__",
    "order": "services.order.__main__",
    "sync": "services.sync.__main__",
    "status": "services.status.__main__",
}
_LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \|( *)(\S+)")


def main(runs: int) -> None:
    """Measure and print."""
    _run(["make", "--silent", "install"])
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        stack = _Stack(Path(folder))
        print(f"cold     {stack.time_up('mesh up'):5.2f} s   mesh up, which makes the databases")
        for command, aim in AIMS_SECONDS.items():
            taken = [stack.time_up(command) for _ in range(runs)]
            median = statistics.median(taken)
            print(f"warm     {median:5.2f} s   {command}: median of {runs}, {min(taken):.2f} to {max(taken):.2f};"
                  f" aim {aim:g} s, {median / aim:.2f} of it")  # fmt: skip
        for name, seconds in stack.stages():
            print(f"ready    {seconds:5.2f} s   {name}")
    for name, modules in MODULES.items():
        total = statistics.median(_seconds(partial(_import, modules)) for _ in range(runs))
        print(f"imports  {total:5.2f} s   {name}: {_costly(modules)}")


class _Stack:
    """The project's own stack, on free ports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        ports = {name: free_port() for name in ("gateway", "registry", "otlp-grpc", "otlp-http")}
        self._flags = [f"--dir={folder / 'state'}", *(f"--{name}-port={port}" for name, port in ports.items())]

    def time_up(self, command: str) -> float:
        """Seconds until all is ready; it is stopped again."""
        words = ["--detach", *self._flags]
        make = ["make", "--silent", "up", f"ARGS={' '.join(words)}"]
        argv = make if command == "make up" else [BIN / "mesh", "up", *words]
        try:
            return _seconds(lambda: _run(argv))
        finally:
            self._read_stages()
            _run([BIN / "mesh", "down", self._flags[0]])

    def stages(self) -> Iterable[tuple[str, float]]:
        """Each process of the last start, in the order in which they were ready, with the seconds that took."""
        return sorted(self._stages.items(), key=lambda item: item[1])

    def _read_stages(self) -> None:
        text = (self._folder / "state" / "logs" / "launcher.log").read_text()
        last = text.rpartition(": starting ")[2]
        self._stages = {name: float(seconds) for name, seconds in re.findall(r"(\S+) is ready after (\S+) s", last)}


def _import(modules: str) -> None:
    _run([sys.executable, "-P", "-c", f"import {modules}"])


def _costly(modules: str) -> str:
    """The costliest packages of an import, each with what it imported first of others."""
    argv = [sys.executable, "-P", "-X", "importtime", "-c", f"import {modules}"]
    told = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    own: dict[str, int] = {}
    for microseconds, _, _, name in _LINE.findall(told):
        package = name.partition(".")[0]
        own[package] = own.get(package, 0) + int(microseconds)
    first = sorted(own.items(), key=lambda item: -item[1])[:6]
    return ", ".join(f"{name} {microseconds / 1e6:.2f}" for name, microseconds in first)


def _seconds(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _run(argv: Sequence[object]) -> None:
    done = subprocess.run(list(map(str, argv)), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, argv))}: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
