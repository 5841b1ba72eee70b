"""What PostgreSQL says of a ledger: rows, bytes, dead rows, and how many blocks its statements have touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from demo.waiting import wait_until

_TABLES = """
    SELECT relname, pg_table_size(relid), pg_indexes_size(relid), n_tup_ins, n_tup_upd, n_tup_hot_upd, n_live_tup,
        n_dead_tup, autovacuum_count, seq_tup_read,
        coalesce(heap_blks_hit + heap_blks_read, 0) + coalesce(idx_blks_hit + idx_blks_read, 0)
            + coalesce(toast_blks_hit + toast_blks_read, 0) + coalesce(tidx_blks_hit + tidx_blks_read, 0)
    FROM pg_stat_user_tables JOIN pg_statio_user_tables USING (relid, schemaname, relname)
    WHERE schemaname = 'aihandoff'"""
_INDEXES = """
    SELECT indexrelname, pg_relation_size(indexrelid) FROM pg_stat_user_indexes WHERE schemaname = 'aihandoff'"""
_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"

#: The tables that autovacuum has still to visit, by its default thresholds, or is visiting.
_UNVISITED = """
    SELECT count(*) FROM pg_stat_user_tables JOIN pg_class ON pg_class.oid = relid
    WHERE schemaname = 'aihandoff' AND (
        n_dead_tup > 50 + 0.2 * greatest(reltuples, 0) OR n_mod_since_analyze > 50 + 0.1 * greatest(reltuples, 0)
        OR n_ins_since_vacuum > 1000 + 0.2 * greatest(reltuples, 0)
        OR relid IN (SELECT relid FROM pg_stat_progress_vacuum))"""

#: Seconds that autovacuum may take, throttled as it is by default.
_VACUUM_SECONDS = 1_800


@dataclass(frozen=True)
class Table:
    """One table.

    :param heap: bytes of its rows, with what is stored beside them.
    :param indexes: bytes of all of its indexes.
    :param hot: of the updates, those that changed no index.
    :param read_through: rows that were read because no index was used.
    :param blocks: of 8 KiB that statements have touched, in rows and indexes.
    """

    heap: int
    indexes: int
    inserts: int
    updates: int
    hot: int
    live: int
    dead: int
    vacuums: int
    read_through: int
    blocks: int


@dataclass(frozen=True)
class Sizes:
    """A ledger at one moment.

    :param wal: bytes that were written to the log of changes, of the whole server.
    :param commits: transactions of this database.
    """

    tables: Mapping[str, Table]
    indexes: Mapping[str, int]
    wal: int
    commits: int

    @property
    def bytes(self) -> int:
        """Of all tables and indexes."""
        return sum(table.heap + table.indexes for table in self.tables.values())

    @property
    def index_bytes(self) -> int:
        """Of all indexes."""
        return sum(table.indexes for table in self.tables.values())

    @property
    def dead(self) -> int:
        """Versions of rows that no one sees any longer, as PostgreSQL estimates."""
        return sum(table.dead for table in self.tables.values())

    @property
    def blocks(self) -> int:
        """That statements have touched."""
        return sum(table.blocks for table in self.tables.values())


def sizes(conninfo: Mapping[str, Any]) -> Sizes:
    """What PostgreSQL says, once every other connection is closed and has said what it did."""
    with psycopg.connect(**conninfo, autocommit=True) as connection:
        wait_until(lambda: _is_alone(connection), "the connections to the ledger to be closed", 60)
        connection.execute("SELECT pg_stat_clear_snapshot()")
        tables = {row[0]: Table(*row[1:]) for row in connection.execute(_TABLES)}
        indexes = dict(connection.execute(_INDEXES).fetchall())
        wal = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
        commits = connection.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert wal is not None
    assert commits is not None
    return Sizes(tables, indexes, int(wal[0]), int(commits[0]))


def wait_for_autovacuum(conninfo: Mapping[str, Any]) -> None:
    """Wait until autovacuum has done what it would do by now."""
    with psycopg.connect(**conninfo, autocommit=True) as connection:
        wait_until(lambda: not _unvisited(connection), "autovacuum to have visited each table", _VACUUM_SECONDS, 1)


def _unvisited(connection: psycopg.Connection[Any]) -> int:
    connection.execute("SELECT pg_stat_clear_snapshot()")
    row = connection.execute(_UNVISITED).fetchone()
    assert row is not None
    return int(row[0])


def _is_alone(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(_OTHERS).fetchone()
    return row is not None and row[0] == 1
