"""A real PgBouncer in front of a test's database, where it is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest

from demo.ports import free_port

#: How many sessions of the server it keeps.
POOL_SIZE = 3

CONFIGURATION = """
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = {pool_size}
logfile = {folder}/log
"""


@contextmanager
def pgbouncer(conninfo: dict[str, Any], mode: str = "transaction") -> Iterator[dict[str, Any]]:
    """A database through PgBouncer. Without one the test is skipped, on a CI machine it fails.

    Its files are not where pytest has those of a test: as root, it is run by another account, and each pytest that
    begins on the machine closes its folders to others.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        reason = "pgbouncer is not installed: apt-get install pgbouncer"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with TemporaryDirectory(prefix="aihandoff-pgbouncer-") as folder:
        port = free_port()
        _configure(Path(folder), conninfo, port, mode)
        process = subprocess.Popen([program, "-q", f"{folder}/ini"], **_owner_of(Path(folder)))
        through = {**conninfo, "host": "127.0.0.1", "port": port}
        try:
            _wait_for(through, process, Path(folder))
            yield through
        finally:
            process.terminate()
            process.wait(20)


def _configure(folder: Path, conninfo: dict[str, Any], port: int, mode: str) -> None:
    password = conninfo["password"].replace('"', '""')
    (folder / "users").write_text(f'"{conninfo["user"]}" "{password}"\n')
    values = {"host": conninfo["host"], "server_port": conninfo["port"], "port": port, "folder": folder}
    (folder / "ini").write_text(CONFIGURATION.format(**values, mode=mode, pool_size=POOL_SIZE))


def _owner_of(folder: Path) -> dict[str, Any]:
    """As whom it runs, to whom its files are given: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam("postgres")
    for path in (folder, *folder.iterdir()):
        os.chown(path, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@contextmanager
def busy(through: dict[str, Any]) -> Iterator[None]:
    """Clients of the pooler that keep its sessions busy, so that one client's transactions get different ones."""
    over = threading.Event()

    def work() -> None:
        with psycopg.connect(**through, autocommit=True, prepare_threshold=None) as connection:
            while not over.is_set():
                connection.execute("SELECT pg_sleep(0.02)")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _wait_for(conninfo: dict[str, Any], process: subprocess.Popen[bytes], folder: Path) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(**conninfo).close()
            return
        except psycopg.OperationalError:
            log = folder / "log"
            said = log.read_text() if log.exists() else "nothing"
            assert process.poll() is None, f"PgBouncer has ended with {process.returncode}. Its log: {said}"
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
