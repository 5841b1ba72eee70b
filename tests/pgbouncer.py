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
def pgbouncer(conninfo: dict[str, Any], tmp_path: Path, mode: str = "transaction") -> Iterator[dict[str, Any]]:
    """A database through PgBouncer. Without one the test is skipped, on a CI machine it fails."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        reason = "pgbouncer is not installed: apt-get install pgbouncer"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    port = free_port()
    folder = tmp_path / "pgbouncer"
    folder.mkdir()
    password = conninfo["password"].replace('"', '""')
    (folder / "users").write_text(f'"{conninfo["user"]}" "{password}"\n')
    values = {"host": conninfo["host"], "server_port": conninfo["port"], "port": port, "folder": folder}
    (folder / "ini").write_text(CONFIGURATION.format(**values, mode=mode, pool_size=POOL_SIZE))
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        account = pwd.getpwnam("postgres")
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        for path in (tmp_path, folder, *folder.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)
        for parent in list(tmp_path.parents)[:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
    process = subprocess.Popen([program, "-q", folder / "ini"], **user)
    through = {**conninfo, "host": "127.0.0.1", "port": port}
    try:
        _wait_for(through)
        yield through
    finally:
        process.terminate()
        process.wait(20)


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


def _wait_for(conninfo: dict[str, Any]) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(**conninfo).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
