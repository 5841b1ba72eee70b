"""The ledger's primary and its synchronous standby, Airflow's metadata, and the poolers in front of them."""

import contextlib
import os
import pwd
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from airflow_provider_aihandoff.core.database import schema
from demo.airflow_stack import BUSINESS_DATABASE, LEDGER_DATABASE, METADATA_DATABASE
from demo.business.seed import seed_business_database
from demo.postgres import HOSTILE, PostgresServer
from demo.processes import ProcessSpec
from demo.waiting import PROCESS_SECONDS, wait_until
from nodes.topology import BACKBONE, CHECKOUT, POOLER_PORT, STANDBY_POOLER_PORT

LEDGER_ROLE = "ledger_user"
"""What every component reaches the ledger with."""
OWNER_ROLE = "ledger_owner"
"""What upgrades the ledger."""
AIRFLOW_ROLE = "airflow"
BUSINESS_ROLE = "business"
POOLER_ROLE = "pooler_admin"
"""Administrates the poolers; no server knows it."""
SETTINGS = {"max_connections": "300"}
POOLER = "pooler"
STANDBY_POOLER = "pooler-standby"

_POOLER_CONFIGURATION = """\
[databases]
{databases}
[pgbouncer]
listen_addr = {address}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
admin_users = {admin}
query_wait_timeout = 15
log_connections = 0
log_disconnections = 0
pool_mode = session
default_pool_size = 150
max_client_conn = 1000
"""
_PRIVILEGES = re.compile(r"```sql\n(GRANT USAGE.*?)```", re.DOTALL)


class StandbyServer(PostgresServer):
    """A server that follows another one, and can take its place.

    :param primary: the server that it copies at its first start; it runs then.
    """

    def __init__(self, data_dir: Path, primary: PostgresServer, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(data_dir, settings)
        self._primary = primary

    def promote(self) -> None:
        """Take writes from now on, and follow no one."""
        with self.connect("postgres") as connection:
            connection.execute("SELECT pg_promote()")

    def _create_cluster(self, folder: Path, binaries: Path) -> None:
        source = self._primary.connection_kwargs("replication")
        password, passfile = folder / "password", folder / "passfile"
        password.write_text(source["password"])
        escaped = re.sub(r"([\\:])", r"\\\1", source["password"])
        passfile.write_text(f"*:*:*:*:{escaped}\n")
        for file in (password, passfile):
            file.chmod(0o600)
            self._own(file)
        address = f"host={source['host']} port={source['port']} user={source['user']} passfile={passfile}"
        command = [binaries / "pg_basebackup", "--pgdata", folder / "cluster", "--dbname", address]
        self._run([*command, "--write-recovery-conf", "--wal-method", "stream", "--checkpoint", "fast"], folder)


class Databases:
    """The three servers, their roles and their passwords.

    :param home: holds a folder for each server.
    """

    def __init__(self, home: Path) -> None:
        self.metadata = PostgresServer(home / "metadata", SETTINGS)
        self.primary = PostgresServer(home / "ledger", SETTINGS)
        self.standby = StandbyServer(home / "ledger-standby", self.primary, SETTINGS)
        self.passwords = {
            role: secrets.token_urlsafe(9) + HOSTILE + secrets.token_urlsafe(9)
            for role in (LEDGER_ROLE, OWNER_ROLE, AIRFLOW_ROLE, BUSINESS_ROLE, POOLER_ROLE)
        }
        self.promoted = False

    @property
    def ledger(self) -> PostgresServer:
        """The server that takes the ledger's writes."""
        return self.standby if self.promoted else self.primary

    def start(self) -> None:
        """Start all three, with their databases, their roles and an empty ledger."""
        self.metadata.start()
        self._create(self.metadata, METADATA_DATABASE, AIRFLOW_ROLE)
        self._create(self.metadata, BUSINESS_DATABASE, BUSINESS_ROLE)
        seed_business_database(self._as_role(self.metadata, BUSINESS_DATABASE, BUSINESS_ROLE))
        self.primary.start()
        self._create(self.primary, LEDGER_DATABASE, OWNER_ROLE)
        self._create_role(self.primary, LEDGER_ROLE)
        schema.upgrade(self._as_role(self.primary, LEDGER_DATABASE, OWNER_ROLE))
        with psycopg.connect(**self._as_role(self.primary, LEDGER_DATABASE, OWNER_ROLE)) as connection:
            connection.execute(privileges())
        self.standby.start()
        with self.primary.connect("postgres") as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            wait_until(lambda: _is_followed(connection), "the standby to follow", PROCESS_SECONDS)

    def switch(self) -> None:
        """Let the ledger's standby take the writes. The old primary goes on answering.

        Its pooler tells its clients what the server said of itself at first, that it is a standby: it has to ask again.
        """
        self.standby.promote()
        self.promoted = True
        admin = {**self.through_pooler("pgbouncer", POOLER_ROLE), "port": STANDBY_POOLER_PORT}
        with psycopg.connect(**admin, autocommit=True, prepare_threshold=None) as connection:
            connection.execute(b"RECONNECT")

    def stop(self) -> None:
        """Stop all three and remove their data."""
        for server in (self.standby, self.primary, self.metadata):
            with contextlib.suppress(psycopg.Error):
                server.destroy()

    def connect_ledger(self) -> psycopg.Connection:
        """Open a connection to the ledger that commits each statement, beside the poolers."""
        return self.ledger.connect(LEDGER_DATABASE)

    def ledger_kwargs(self) -> dict[str, Any]:
        """The arguments of `psycopg.connect` for the ledger, beside the poolers."""
        return self.ledger.connection_kwargs(LEDGER_DATABASE)

    def through_pooler(self, dbname: str, role: str) -> dict[str, Any]:
        """The parts of an address of a database through the first pooler."""
        return {
            "host": BACKBONE,
            "port": POOLER_PORT,
            "user": role,
            "password": self.passwords[role],
            "dbname": dbname,
        }

    def service_file(self) -> str:
        """How the nodes reach the ledger: both poolers, of which one leads to the server that takes writes."""
        parts = {
            **self.through_pooler(LEDGER_DATABASE, LEDGER_ROLE),
            "host": f"{BACKBONE},{BACKBONE}",
            "port": f"{POOLER_PORT},{STANDBY_POOLER_PORT}",
            "load_balance_hosts": "random",  # a pooler whose server is gone still lets clients in, and then fails
        }
        return "[aihandoff_ledger]\n" + "".join(f"{name}={value}\n" for name, value in parts.items())

    def poolers(self, program: str, logs: Path) -> list[ProcessSpec]:
        """How to run the two poolers: each stands beside one of the ledger's servers.

        :param program: PgBouncer.
        :param logs: the folder of their logs.
        """
        first = {LEDGER_DATABASE: (self.primary, "transaction")}
        first |= dict.fromkeys((METADATA_DATABASE, BUSINESS_DATABASE), (self.metadata, "session"))
        second = {LEDGER_DATABASE: (self.standby, "transaction")}
        return [
            self._pooler(program, POOLER, logs, POOLER_PORT, first),
            self._pooler(program, STANDBY_POOLER, logs, STANDBY_POOLER_PORT, second),
        ]

    def _pooler(
        self, program: str, name: str, logs: Path, port: int, databases: Mapping[str, tuple[PostgresServer, str]]
    ) -> ProcessSpec:
        folder = self.primary.log.parent.resolve() / name  # within the reach of the user postgres
        folder.mkdir(mode=0o700)
        leads = []
        for database, (server, mode) in databases.items():
            to = server.connection_kwargs(database)
            leads.append(f"{database} = host={to['host']} port={to['port']} pool_mode={mode}")
        values = {"databases": "\n".join(leads), "address": BACKBONE, "port": port, "folder": folder}
        (folder / "ini").write_text(_POOLER_CONFIGURATION.format(**values, admin=POOLER_ROLE))
        quoted = {role: password.replace('"', '""') for role, password in self.passwords.items()}
        (folder / "users").write_text("".join(f'"{role}" "{password}"\n' for role, password in quoted.items()))
        account = pwd.getpwnam("postgres")  # PgBouncer refuses to run as root
        for path in (folder, *folder.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)
        return ProcessSpec(
            name=name,
            command=(program, str(folder / "ini")),
            log=logs / f"{name}.log",
            user=(account.pw_uid, account.pw_gid),
        )

    def _create(self, server: PostgresServer, database: str, owner: str) -> None:
        self._create_role(server, owner)
        with server.connect("postgres") as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(owner))
            )
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
            if database == LEDGER_DATABASE:
                self._create_role(server, LEDGER_ROLE)
                connection.execute(
                    sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                        sql.Identifier(database), sql.Identifier(LEDGER_ROLE)
                    )
                )

    def _create_role(self, server: PostgresServer, role: str) -> None:
        with server.connect("postgres") as connection, contextlib.suppress(psycopg.errors.DuplicateObject):
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(self.passwords[role])
                )
            )

    def _as_role(self, server: PostgresServer, database: str, role: str) -> dict[str, Any]:
        return {**server.connection_kwargs(database), "user": role, "password": self.passwords[role]}


def privileges() -> str:
    """What the page on deployments grants to the role of the daily work, word for word."""
    found = _PRIVILEGES.search((CHECKOUT / "docs" / "deployment.md").read_text("utf-8"))
    assert found is not None
    return found[1]


def _is_followed(connection: psycopg.Connection) -> bool:
    query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'"
    row = connection.execute(query).fetchone()
    return row is not None and row[0] == 1
