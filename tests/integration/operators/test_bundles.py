"""Dag bundles with versions: which code a task of a run has, and what it does with what has changed since the draft."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from airflow.api.common.trigger_dag import trigger_dag
from airflow.dag_processing.bundles.base import BaseDagBundle
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.sdk import DAG
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import delete, select

from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.airflow_compat import forget_bundles
from tests.integration.operators.dag_runs import Dags, Run, open_session
from tests.people import insist
from tests.target import Answer, Target

pytestmark = pytest.mark.skipif(RELEASE < (3, 3), reason="a bundle is versioned in another way there")

#: A note that a person decides on, and that is put to the CMS.
CODE = """
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.integration.operators.tasks import ask, publish

with DAG("notes", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), default_args={{"retries": 0}}{options}):
    draft = ask(input={input!r})
    approve = ApprovalSensor(task_id="approve", job=draft, timeout=timedelta(minutes=2))
    draft >> approve >> publish(draft, endpoint={endpoint!r})
"""


class FolderBundle(BaseDagBundle):
    """A folder for each version, of which the one with the highest number is the latest."""

    supports_versioning = True

    def __init__(self, *, root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._root = Path(root)

    def get_current_version(self) -> Any:
        from airflow.dag_processing.bundles.base import BundleVersion

        return BundleVersion(self.path.name)

    def refresh(self) -> None:
        """There is nothing to fetch."""

    @property
    def path(self) -> Path:
        latest = max((each.name for each in self._root.iterdir()), key=int)
        return self._root / (self.version or latest)


@dataclass
class Notes:
    """The Dag ``notes``, whose bundle can get a new version at any time."""

    dags: Dags
    root: Path

    def release(
        self, *, input: str = "Write about the kettle.", endpoint: str = "/posts/kettle", options: str = ""
    ) -> None:
        """Give the bundle a new version, and have it parsed, as a Dag processor does."""
        folder = self.root / str(len([*self.root.iterdir()]) + 1)
        folder.mkdir()
        (folder / "notes.py").write_text(CODE.format(input=input, endpoint=endpoint, options=options))
        if len([*self.root.iterdir()]) == 1:
            DagBundlesManager().sync_bundles_to_db()
        from airflow.dag_processing.dagbag import sync_bag_to_db

        sync_bag_to_db(self._bag(None), "notes", folder.name)

    def start(self, run_id: str = "first") -> str:
        """A run of the version that is the latest now."""
        trigger_dag("notes", run_id=run_id, triggered_by=DagRunTriggeredByType.TEST)
        return run_id

    def version(self, run_id: str) -> str | None:
        """The version of the bundle that the tasks of a run have."""
        with open_session() as session:
            return session.scalar(select(DagRun.bundle_version).where(DagRun.run_id == run_id))

    def step(self, run_id: str) -> Run:
        """Run what may run now, with the code that a worker would be given for the run."""
        self.dags.errors.clear()
        with open_session() as session:
            (dag_run,) = session.scalars(select(DagRun).where(DagRun.run_id == run_id))
            dag_run.state = "running"
            session.commit()
        return self.dags.step(self._dag(self.version(run_id)), run_id)

    def clear(self, run_id: str, *task_ids: str, latest: bool) -> None:
        """Clear tasks, as Airflow's UI does, with or without *Run on latest version*."""
        stored = SerializedDagModel.get_dag("notes")
        assert stored is not None
        stored.clear(task_ids=task_ids, run_id=run_id, run_on_latest_version=latest)

    def _dag(self, version: str | None) -> DAG:
        dag: DAG = self._bag(version).dags["notes"]
        for task in dag.tasks:
            task.on_failure_callback = [self.dags._remember]
        return dag

    @staticmethod
    def _bag(version: str | None) -> Any:
        from airflow.dag_processing.dagbag import BundleDagBag

        bundle = DagBundlesManager().get_bundle("notes", version=version)
        bundle.initialize()
        bag = BundleDagBag(dag_folder=str(bundle.path), bundle_path=bundle.path, bundle_name="notes")
        assert bag.import_errors == {}
        return bag


@pytest.fixture
def notes(dags: Dags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notes]:
    local = {"name": "dags-folder", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": {}}
    folder = {
        "name": "notes",
        "classpath": f"{__name__}.FolderBundle",
        "kwargs": {"root": str(tmp_path), "refresh_interval": 0},
    }
    with monkeypatch.context() as patch:
        patch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([local, folder]))
        patch.setenv("AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL", "0")  # each version is seen at once
        forget_bundles()
        yield Notes(dags, tmp_path)
    forget_bundles()
    with open_session() as session:
        session.execute(delete(DagRun).where(DagRun.dag_id == "notes"))
        session.commit()
    DagBundlesManager().sync_bundles_to_db()


@pytest.fixture
def drafted(notes: Notes) -> Notes:
    """The first version's run has its draft, and the next version writes to another address."""
    notes.release()
    done = notes.step(notes.start())
    assert done.states["draft"] == "success", done.errors
    notes.release(endpoint="/posts/pot")
    return notes


def test_a_run_keeps_the_version_that_it_began_with(drafted: Notes, ledger: Ledger, target: Target) -> None:
    with approving(ledger):
        drafted.step("first")
    done = drafted.step("first")

    assert done.states["publish"] == "success", done.errors
    assert drafted.version("first") == "1"
    assert paths(target) == ["/posts/kettle"]


def test_a_clear_on_the_latest_version_pays_and_writes_nothing_again_and_says_what_has_changed(
    drafted: Notes, ledger: Ledger, target: Target, stand_in: OpenAIStandIn
) -> None:
    with approving(ledger):
        drafted.step("first")
    drafted.step("first")
    end(drafted, "first")

    drafted.clear("first", "draft", "approve", "publish", latest=False)
    done = [drafted.step("first") for _ in range(3)][-1]
    assert (drafted.version("first"), set(done.states.values())) == ("1", {"success"})

    end(drafted, "first")
    drafted.clear("first", "draft", "approve", "publish", latest=True)
    done = [drafted.step("first") for _ in range(3)][-1]
    assert (drafted.version("first"), done.states["approve"], done.states["publish"]) == ("2", "success", "failed")
    assert "It was applied before, as approved" in done.error("publish")
    assert (len(stand_in.responses().responses), paths(target)) == (1, ["/posts/kettle"])


def test_what_another_version_would_write_is_asked_about_again_before_it_is_sent(
    drafted: Notes, ledger: Ledger, target: Target, stand_in: OpenAIStandIn
) -> None:
    target.answers = [Answer(422)]  # the first version's write is refused, and no write is made
    with approving(ledger):
        drafted.step("first")
    drafted.step("first")
    end(drafted, "first")

    drafted.clear("first", "publish", latest=True)
    refused = drafted.step("first")
    assert "is not what was approved. Changed: url" in refused.error("publish")
    assert paths(target) == ["/posts/kettle"]

    end(drafted, "first")
    drafted.clear("first", "approve", "publish", latest=True)
    with approving(ledger):
        drafted.step("first")
    done = drafted.step("first")
    assert done.states["publish"] == "success", done.errors
    assert (len(stand_in.responses().responses), paths(target)) == (1, ["/posts/kettle", "/posts/pot"])


def test_a_bundle_without_versions_that_changes_in_the_middle_of_a_run_writes_what_was_approved_or_nothing(
    notes: Notes, ledger: Ledger, target: Target
) -> None:
    options = ", disable_bundle_versioning=True"
    notes.release(options=options)
    notes.step(notes.start())
    notes.release(endpoint="/posts/pot", options=options)
    with approving(ledger):  # of what is in force now, which is the other address
        notes.step("first")
    notes.release(endpoint="/posts/pan", options=options)
    refused = notes.step("first")
    assert notes.version("first") is None
    assert "is not what was approved. Changed: url" in refused.error("publish")
    assert paths(target) == []

    end(notes, "first")
    notes.clear("first", "approve", "publish", latest=False)
    with approving(ledger):
        notes.step("first")
    done = notes.step("first")
    assert done.states["publish"] == "success", done.errors
    assert paths(target) == ["/posts/pan"]
    assert ledger.job(1).state is JobState.COMPLETED


@contextmanager
def approving(ledger: Ledger) -> Iterator[None]:
    """A person who approves the first job as soon as it is asked about."""

    def approve() -> None:
        while (job := ledger.job(1)).state is not JobState.REVIEW or job.review_digest is None:
            if given_up.wait(0.02):
                return
        ledger.reviews.decide(1, "approve", digest=job.review_digest, person=Person("bob"))

    given_up, thread = threading.Event(), threading.Thread(target=insist(approve))
    thread.start()
    yield
    given_up.set()
    thread.join()


def paths(target: Target) -> list[str]:
    return [request.path for request in target.received]


def end(notes: Notes, run_id: str) -> None:
    """Have the scheduler see that no task of a run is left."""
    with open_session() as session:
        (dag_run,) = session.scalars(select(DagRun).where(DagRun.run_id == run_id))
        dag_run.dag = SerializedDagModel.get_dag("notes")
        dag_run.update_state(session=session)
        session.commit()
        assert dag_run.state in ("success", "failed")
