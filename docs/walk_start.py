"""Walks `docs/start.md` as a stranger would, and prints how long each step takes: `python -m docs.walk_start`.

In an empty folder, with a PostgreSQL of its own and a virtual environment in which nothing but Airflow is installed, it
runs each block of the page in one shell, in their order. The package is the wheel that is built from this checkout. It
changes of the page: the ports, where others are free; and on Airflow 3.1 the name of the command, as the page says.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.ports import free_port
from demo.postgres import PostgresServer
from demo.processes import GuardedProcess, ProcessSpec, log_tail
from demo.waiting import wait_until
from docs.snippets import ROOT, snippets_of

PAGE = ROOT / "docs" / "start.md"
PACKAGE = "airflow-provider-aihandoff"
#: Ports that the page names.
PORTS = ("8080", "8765")
#: Seconds for the whole page, on a machine that is busy.
WITHIN = 1800.0


class WalkFailedError(RuntimeError):
    """A step of the page did not end well."""


@dataclass(frozen=True)
class Step:
    """A heading of the page, with the commands below it.

    :param seconds: how long they took; None before they ran.
    """

    title: str
    commands: str
    seconds: float | None = None


def steps() -> list[Step]:
    """The steps of the page, in their order."""
    headings = {
        PAGE.read_text("utf-8").count("\n", 0, found.start()) + 1: found[1]
        for found in re.finditer(r"^## (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    }
    commands: dict[str, str] = {}
    for snippet in snippets_of(PAGE):
        if snippet.language == "sh" and snippet.not_run is None:
            title = headings[max(line for line in headings if line < snippet.line)]
            commands[title] = commands.get(title, "") + snippet.code
    return [Step(title, code) for title, code in commands.items()]


def script(page: Sequence[Step], replaced: Mapping[str, str]) -> str:
    """One program for a shell of all steps, which writes down when each of them begins and when the last one ends.

    :param replaced: texts of the page, and what stands in their places.
    """
    lines = ["set -euo pipefail", "set -m  # jobs as at a terminal"]
    for number, step in enumerate(page):
        commands = step.commands
        for text, instead in replaced.items():
            commands = commands.replace(text, instead)
        lines += [f'echo "{number} $EPOCHREALTIME" >> "$WALKED"', commands]
    return "\n".join([*lines, f'echo "{len(page)} $EPOCHREALTIME" >> "$WALKED"', ""])


def walk(folder: Path, python: Path, release: tuple[int, ...], install: str) -> list[Step]:
    """Run the page in an empty folder.

    :param python: the interpreter of the environment in which Airflow is installed.
    :param release: of that Airflow.
    :param install: what stands in the place of the command that installs the package.
    :return: the steps, with their seconds.
    :raises WalkFailedError: one of them failed; with the end of its output.
    """
    page, walked = steps(), folder / "walked"
    replaced = {f"pip install '{PACKAGE}[binary]'": install} | {port: str(free_port()) for port in PORTS}
    if release < (3, 2):
        replaced["airflow aihandoff"] = "python -m airflow_provider_aihandoff"
    program = folder / "walk.sh"
    program.write_text(script(page, replaced))
    with _postgres(folder) as reached:
        shell = GuardedProcess(
            ProcessSpec(
                name="start.md",
                command=("bash", str(program)),
                log=folder / "output.log",
                env={**_environment(python, replaced["8080"]), **reached, "WALKED": str(walked)},
                cwd=folder,
            )
        )
        try:
            wait_until(lambda: shell.poll() is not None, "the end of the page", WITHIN, 0.2)
            left = shell.descendants() - {shell.pid}
        finally:
            shell.stop()
    times = [float(line.split()[1]) for line in walked.read_text().splitlines()] if walked.exists() else []
    if shell.poll() != 0 or left:
        step = page[min(max(len(times) - 1, 0), len(page) - 1)].title
        what = f"ended with {shell.poll()}" if shell.poll() else f"left {len(left)} processes behind"
        logs = "\n".join(log_tail(log) for log in [folder / "output.log", *sorted(folder.glob("first-job/*.log"))])
        raise WalkFailedError(f"{step!r} {what}:\n{logs}")
    return [
        Step(step.title, step.commands, after - before)
        for step, before, after in zip(page, times, times[1:], strict=False)
    ]


@contextmanager
def _postgres(folder: Path) -> Iterator[dict[str, str]]:
    """A server, as libpq's variables."""
    server = PostgresServer(folder / "postgres")
    server.start()
    try:
        parts = server.connection_kwargs("postgres")
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD"}
        yield {variable: str(parts[name]) for name, variable in names.items()}
    finally:
        server.destroy()


def _environment(python: Path, port: str) -> dict[str, str]:
    """What a shell has in which this virtual environment is activated, and in which no Airflow is configured but for
    its ports."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PG", "PYTHON", "COV"))
    }
    ports = {f"AIRFLOW__LOGGING__{name}_LOG_SERVER_PORT": str(free_port()) for name in ("WORKER", "TRIGGER")}
    ports |= {"AIRFLOW__API__PORT": port, "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}"}
    path = f"{python.parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, **ports, "VIRTUAL_ENV": str(python.parent.parent), "PATH": path, "PYTHONUNBUFFERED": "1"}


def install_airflow(folder: Path, lock: Path, python: str) -> Path:
    """Make a virtual environment with Airflow alone, in the versions of a lock. Return its interpreter."""
    versions = re.findall(r"^([a-z0-9._-]+==[^ ;\\]+)", lock.read_text("utf-8"), re.MULTILINE)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(versions))
    airflow = [each for each in versions if each.startswith(("apache-airflow==", "apache-airflow-core=="))]
    uv = [sys.executable, "-m", "uv"]
    _run([*uv, "venv", "--quiet", "--seed", "--python", python, str(folder / "venv")])
    interpreter = folder / "venv" / "bin" / "python"
    options = ["--quiet", "--python", str(interpreter), "--compile-bytecode", "--constraint", str(constraints)]
    _run([*uv, "pip", "install", *options, *airflow])
    return interpreter


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout."""
    _run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)], ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _run(command: Sequence[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WalkFailedError(f"{shlex.join(command)} failed:\n{done.stderr}")


def main() -> None:
    """Walk the page on the Airflow of a lock, and print the steps with their seconds."""
    parser = argparse.ArgumentParser(prog="python -m docs.walk_start", description=__doc__)
    parser.add_argument("lock", type=Path, help="the lock that says which Airflow")
    parser.add_argument("--python", default=sys.executable, help="an interpreter (default: this one)")
    options = parser.parse_args()
    found = re.search(r"^apache-airflow-core==((\d+)\.(\d+)\S*)", options.lock.read_text("utf-8"), re.MULTILINE)
    if found is None:
        sys.exit(f"{options.lock} names no Airflow.")
    with tempfile.TemporaryDirectory(prefix="first-job-") as name:
        folder = Path(name)
        print(f"Installing Airflow {found[1]}, and building the wheel", flush=True)
        interpreter = install_airflow(folder, options.lock.absolute(), options.python)
        wheel = build_wheel(folder)
        empty = folder / "empty"
        empty.mkdir()
        done = walk(
            empty, interpreter, (int(found[2]), int(found[3])), f"pip install {shlex.quote(f'{wheel}[binary]')}"
        )
    for step in done:
        print(f"{step.seconds:6.1f} s  {step.title}")
    print(f"{sum(step.seconds or 0 for step in done):6.1f} s  in all, on Airflow {found[1]}")


if __name__ == "__main__":
    try:
        main()
    except WalkFailedError as error:
        sys.exit(str(error))
