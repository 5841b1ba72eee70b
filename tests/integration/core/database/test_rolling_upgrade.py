"""Two releases on one ledger, while components are replaced one by one: each continues what the other one has begun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.errors import LedgerSchemaError
from airflow_provider_aihandoff.core.ledger import Ledger
from tests.integration.core.database import two_releases
from tests.integration.core.database.older import upgrade_to

ROOT = Path(__file__).parents[4]

#: What a migration may do: a column that is filled by itself at the end of each table, a table, an index.
EXPAND = """
    DO $$ DECLARE each record; BEGIN
        FOR each IN SELECT tablename FROM pg_tables WHERE schemaname = 'aihandoff' AND tablename <> 'alembic_version'
        LOOP
            EXECUTE format('ALTER TABLE aihandoff.%I ADD COLUMN of_next_release text NOT NULL DEFAULT ''new''',
                each.tablename);
        END LOOP;
        CREATE TABLE aihandoff.next_release (job_id bigint NOT NULL REFERENCES aihandoff.jobs);
        CREATE INDEX next_release_by_job ON aihandoff.jobs (of_next_release, job_id);
        UPDATE aihandoff.alembic_version SET version_num = '9999';
    END $$"""


def run(conninfo: dict[str, Any], statement: str) -> None:
    with psycopg.connect(**conninfo) as connection:
        connection.execute(statement)


def says_that_it_serves(conninfo: dict[str, Any], version: str) -> None:
    """What the upgrade of a newer release leaves."""
    said = sql.Literal(f"Serves packages that need schema version {version} or newer.")
    with psycopg.connect(**conninfo) as connection:
        connection.execute(sql.SQL("COMMENT ON TABLE aihandoff.alembic_version IS {}").format(said))


@pytest.fixture
def next_ledger(empty_conninfo: dict[str, Any]) -> dict[str, Any]:
    """A ledger with a job in each state, which a newer release has upgraded since."""
    schema.upgrade(empty_conninfo)
    with Ledger(empty_conninfo) as ledger:
        two_releases.make(ledger, "before")
    run(empty_conninfo, EXPAND)
    return empty_conninfo


class TestOnTheLedgerOfANewerRelease:
    def test_it_makes_jobs_in_every_state_and_continues_those_from_before(self, next_ledger: dict[str, Any]) -> None:
        with Ledger(next_ledger, max_size=2) as ledger:
            ledger.check_schema()
            two_releases.go_on(ledger, "before")
            two_releases.make(ledger, "after")
            two_releases.go_on(ledger, "after")

    def test_a_second_upgrade_by_the_older_release_leaves_it_as_it_is(self, next_ledger: dict[str, Any]) -> None:
        assert schema.upgrade(next_ledger) == ("9999", "9999")

    def test_one_that_no_longer_serves_this_release_is_refused(self, next_ledger: dict[str, Any]) -> None:
        says_that_it_serves(next_ledger, "9998")
        with Ledger(next_ledger) as ledger, pytest.raises(LedgerSchemaError, match=r"9999.*does not know.*install"):
            ledger.check_schema()
        with pytest.raises(LedgerSchemaError, match="install that release"):
            schema.upgrade(next_ledger)

    def test_one_that_does_not_say_whom_it_serves_is_refused(self, next_ledger: dict[str, Any]) -> None:
        run(next_ledger, "COMMENT ON TABLE aihandoff.alembic_version IS NULL")
        with Ledger(next_ledger) as ledger, pytest.raises(LedgerSchemaError, match="does not know"):
            ledger.check_schema()

    async def test_a_hub_and_an_api_server_of_the_older_release_follow_it_too(
        self, next_ledger: dict[str, Any]
    ) -> None:
        async with await psycopg.AsyncConnection.connect(**next_ledger, autocommit=True) as connection:
            await schema.check_async(connection)
            says_that_it_serves(next_ledger, "9998")
            with pytest.raises(LedgerSchemaError, match="does not know"):
                await schema.check_async(connection)


class TestWhomItServes:
    def test_it_is_said_by_a_fresh_ledger_and_by_an_upgraded_one(
        self, empty_conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        schema.upgrade(empty_conninfo)
        assert self.served(empty_conninfo) == schema.ROLLING_SINCE
        monkeypatch.setattr(schema, "serves_from", lambda: "0025")
        schema.upgrade(empty_conninfo)
        assert self.served(empty_conninfo) == "0025"

    def test_an_upgrade_that_dies_changes_nothing_of_it(
        self, empty_conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upgrade_to(empty_conninfo, "0025")
        monkeypatch.setattr(schema, "serves_from", self.dies)
        with pytest.raises(KeyboardInterrupt):
            schema.upgrade(empty_conninfo)
        with psycopg.connect(**empty_conninfo) as connection:
            assert schema.current_version(connection) == "0025"
        assert self.served(empty_conninfo) is None

    @staticmethod
    def dies() -> str:
        raise KeyboardInterrupt

    @staticmethod
    def served(conninfo: dict[str, Any]) -> str | None:
        with psycopg.connect(**conninfo) as connection:
            ledger = schema.read_version(connection)
        assert ledger is not None
        return ledger.serves_from


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the newest commit of the history whose code needs an older schema than this one."""
    folder = Path(tmp_path_factory.mktemp("earlier"))
    commit = _commit_before(schema.head_version())
    if commit is None:
        pytest.skip("the history has no commit with an older schema: this is a shallow checkout")
    packed = _git("archive", "--format=tar", commit, "airflow_provider_aihandoff", "tests", "demo")
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


class TestWithAnEarlierRelease:
    """The code of an earlier commit, in processes of its own, and this one, on a ledger that this one has upgraded."""

    def test_each_continues_the_jobs_of_the_other(self, earlier: Path, conninfo: dict[str, Any]) -> None:
        self.by(earlier, "make", "earlier", conninfo)
        with Ledger(conninfo, max_size=2) as ledger:
            two_releases.make(ledger, "this one")
            two_releases.go_on(ledger, "earlier")
        self.by(earlier, "go_on", "this one", conninfo)

    @staticmethod
    def by(checkout: Path, part: str, mark: str, conninfo: dict[str, Any]) -> None:
        """Do a part with the code of that checkout."""
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        command = [sys.executable, two_releases.__file__, part, mark, json.dumps(conninfo)]
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-5000:]


def _commit_before(version: str) -> str | None:
    """The parent of the commit that brought the migration of a version; None where the history does not have it."""
    folder = "airflow_provider_aihandoff/core/database/migrations/versions"
    (file,) = (ROOT / folder).glob(f"{version}_*.py")
    try:
        lines = _git("log", "--format=%H %P", "--diff-filter=A", "--no-merges", "--", f"{folder}/{file.name}")
    except (OSError, subprocess.CalledProcessError):
        return None
    commits = [line.split() for line in lines.decode().splitlines()]
    return commits[-1][1] if commits and len(commits[-1]) > 1 else None


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout
