"""Webhooks and everything else at the same moment: each race is made to happen, none is left to luck."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.generation import output_store
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, InboxEntry, Job, Revision
from airflow_provider_aihandoff.core.states import Disposition, JobEvent, JobState, ResponseStatus, RevisionState
from airflow_provider_aihandoff.core.webhooks import inbox
from tests.factories import TEST, job_spec, submit
from tests.integration.core.webhooks.inboxes import (
    BILLED,
    IMPATIENT,
    OVER,
    Race,
    adopt,
    check_histories,
    count,
    deliver,
    intend,
    lose,
    open_job,
    pausing_at_commit,
    race,
    submitted,
    webhook,
)

pytestmark = pytest.mark.usefixtures("way_in")

D = Disposition
OTHER = {"model": "gpt-5.2", "input": "Write about the pan."}
PAIRS = 200


@pytest.fixture(name="race")
def opened_race(conninfo: dict[str, Any]) -> Iterator[Race]:
    with race(conninfo) as opened:
        yield opened


@pytest.fixture
def other(conninfo: dict[str, Any]) -> Iterator[Ledger]:
    """The ledger, as another process has it open."""
    with Ledger({**conninfo, **IMPATIENT}, max_size=20) as opened:
        yield opened
        check_histories(opened)


@pytest.fixture
def slow(conninfo: dict[str, Any], race: Race) -> Iterator[Ledger]:
    """The ledger, where the first step of a race waits with its commit for the other step."""
    with pausing_at_commit(conninfo, race) as opened:
        yield opened


class TestOneWebhook:
    def test_twenty_deliveries_at_once_are_one_webhook_that_came_twenty_times(self, other: Ledger) -> None:
        running = submit(other, job_spec())
        start = threading.Barrier(20)

        def run(_: int) -> bool:
            start.wait(10)
            return other.inbox.receive(webhook()).repeated

        with ThreadPoolExecutor(20) as threads:
            repeated = list(threads.map(run, range(20)))
        assert sorted(repeated) == [False] + [True] * 19
        entry = other.inbox.read("wh_1")
        assert (entry.disposition, entry.deliveries) == (D.APPLIED, 20)
        assert count(other, running.job_id, JobEvent.RESPONSE_ENDED) == 1

    @pytest.mark.parametrize("known", [True, False])
    def test_two_deliveries_of_which_the_first_has_not_committed_are_one_webhook(
        self, slow: Ledger, other: Ledger, race: Race, known: bool
    ) -> None:
        if known:
            submit(other, job_spec())
        first, second = race.run(lambda: slow.inbox.receive(webhook()), lambda: other.inbox.receive(webhook()))
        assert (first.repeated, second.repeated) == (False, True)
        assert second.entry.deliveries == 2
        assert second.entry.disposition is (D.APPLIED if known else D.QUARANTINED)

    def test_two_webhooks_of_the_same_end_are_one_that_is_applied_and_one_duplicate(
        self, slow: Ledger, other: Ledger, race: Race
    ) -> None:
        running = submit(other, job_spec())
        first, second = race.run(lambda: deliver(slow), lambda: deliver(other, "wh_2"))
        assert (first.disposition, second.disposition) == (D.APPLIED, D.DUPLICATE)
        assert count(other, running.job_id, JobEvent.RESPONSE_ENDED) == 1

    def test_two_webhooks_of_the_same_late_end_are_one_late_and_one_duplicate(
        self, slow: Ledger, other: Ledger, race: Race, way_in: str
    ) -> None:
        running = submit(other, job_spec())
        other.outputs.cancelled(running.job_id, 1, actor=TEST, reason="enough", status=None)
        dispositions = [entry.disposition for entry in race.run(lambda: deliver(slow), lambda: deliver(other, "wh_2"))]
        if way_in == "in a batch":  # the first one is left by its batch, and the second one may be recorded before it
            dispositions.sort(reverse=True)
        assert dispositions == [D.LATE, D.DUPLICATE]
        assert count(other, running.job_id, JobEvent.OUTPUT_LATE) == 1


class TestWebhookAndWorker:
    """The worker stores the id of a response, while the webhook of its end arrives."""

    def pair(self, ledger: Ledger, number: int) -> tuple[Job, Callable[[Ledger], Any], Callable[[Ledger], Any]]:
        job = open_job(ledger, job_key=f"note:{number}")
        intent = intend(ledger, job)

        def store(by: Ledger) -> Revision | None:
            return submitted(by, job, intent, f"resp_{number}")

        def receive(by: Ledger) -> InboxEntry:
            return deliver(by, f"wh_{number}", f"resp_{number}")

        return job, store, receive

    def applied_once(self, ledger: Ledger, jobs: list[Job]) -> None:
        assert ledger.inbox.counts() == {D.APPLIED: (len(jobs), len(jobs))}
        for job in jobs:
            assert count(ledger, job.job_id, JobEvent.RESPONSE_ENDED) == 1
            revision = ledger.revision(job.job_id, 1)
            assert (revision.state, revision.response_status) == (RevisionState.RUNNING, "completed")

    def test_a_webhook_that_is_being_recorded_is_seen_by_the_worker(
        self, slow: Ledger, other: Ledger, race: Race
    ) -> None:
        jobs = []
        for number in range(PAIRS):
            job, store, receive = self.pair(other, number)
            race.run(partial(receive, slow), partial(store, other))
            jobs.append(job)
        self.applied_once(other, jobs)

    def test_an_id_that_is_being_stored_is_seen_by_the_webhook(self, slow: Ledger, other: Ledger, race: Race) -> None:
        jobs = []
        for number in range(PAIRS):
            job, store, receive = self.pair(other, number)
            race.run(partial(store, slow), partial(receive, other))
            jobs.append(job)
        self.applied_once(other, jobs)

    def test_both_at_once_are_applied_once_however_they_meet(self, other: Ledger) -> None:
        jobs, start = [], threading.Barrier(2)

        def run(step: Callable[[Ledger], Any]) -> None:
            start.wait(10)
            step(other)

        with ThreadPoolExecutor(2) as threads:
            for number in range(PAIRS):
                job, *steps = self.pair(other, number)
                list(threads.map(run, steps))
                jobs.append(job)
        self.applied_once(other, jobs)

    @pytest.mark.parametrize("worker_first", [True, False])
    def test_a_worker_and_a_poll_give_the_job_the_same_response_once(
        self, slow: Ledger, other: Ledger, race: Race, worker_first: bool
    ) -> None:
        job, store, receive = self.pair(other, 0)
        receive(other)
        steps: list[Callable[[Ledger], Any]] = [store, lambda by: adopt(by, job.job_id, "wh_0")]
        first, second = steps if worker_first else reversed(steps)
        race.run(lambda: first(slow), lambda: second(other))
        self.applied_once(other, [job])
        assert count(other, job.job_id, JobEvent.SUBMITTED) == 1

    def test_a_webhook_that_is_being_recorded_is_seen_by_the_poll_of_another_one_of_its_response(
        self, slow: Ledger, other: Ledger, race: Race
    ) -> None:
        job = open_job(other)
        intend(other, job)
        deliver(other)
        race.run(lambda: deliver(slow, "wh_2"), lambda: adopt(other, job.job_id))
        assert other.inbox.counts() == {D.APPLIED: (1, 1), D.DUPLICATE: (1, 1)}

    def test_a_worker_does_not_hold_the_job_while_it_waits_for_the_response(
        self, other: Ledger, race: Race, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lock on the response comes first, or the two would wait for each other."""
        job, store, receive = self.pair(other, 0)
        receive(other)
        find = inbox._find

        def pause_and_find(connection: LedgerConnection, response_id: str) -> Any:
            race.pause()
            return find(connection, response_id)

        monkeypatch.setattr(inbox, "_find", pause_and_find)
        race.run(lambda: adopt(other, job.job_id, "wh_0"), lambda: store(other))
        self.applied_once(other, [job])

    @pytest.mark.parametrize("worker_first", [True, False])
    def test_a_worker_and_a_poll_that_bring_two_responses_leave_one_and_an_orphan(
        self, slow: Ledger, other: Ledger, race: Race, worker_first: bool
    ) -> None:
        job = open_job(other)
        lose(other, job, intend(other, job))
        intent = intend(other, job)
        deliver(other)
        steps: list[Callable[[Ledger], Any]] = [
            lambda by: submitted(by, job, intent, "resp_2"),
            lambda by: adopt(by, job.job_id),
        ]
        first, second = steps if worker_first else reversed(steps)
        race.run(lambda: first(slow), lambda: second(other))
        revision = other.revision(job.job_id, 1)
        assert revision.response_id == "resp_1"
        assert (revision.submissions, revision.unknown_submissions) == (2, 0 if worker_first else 1)
        assert count(other, job.job_id, JobEvent.SUBMITTED) == 1
        assert count(other, job.job_id, JobEvent.RESPONSE_REPLACED) == (1 if worker_first else 0)
        assert [surplus.response_id for surplus in other.surplus.of_job(job.job_id)] == ["resp_2"]
        assert other.inbox.read("wh_1").disposition is D.APPLIED

    def test_two_polls_of_the_same_orphan_write_its_cost_once(self, slow: Ledger, other: Ledger, race: Race) -> None:
        running = submit(other, job_spec(), "resp_2")
        deliver(other)
        first, second = race.run(lambda: adopt(slow, running.job_id), lambda: adopt(other, running.job_id))
        assert (first.disposition, second.disposition) == (D.LATE, D.LATE)
        assert count(other, running.job_id, JobEvent.OUTPUT_LATE) == 1

    def test_a_worker_that_adopts_a_webhook_which_a_person_is_discarding_leaves_it_discarded(
        self, slow: Ledger, other: Ledger, race: Race
    ) -> None:
        job, store, receive = self.pair(other, 0)
        receive(other)
        race.run(lambda: slow.inbox.discard("wh_0", actor=Actor.program("alice"), why="?"), lambda: store(other))
        assert other.inbox.read("wh_0").disposition is D.DISCARDED
        assert count(other, job.job_id, JobEvent.RESPONSE_ENDED) == 0


def store(ledger: Ledger, job_id: int) -> Job:
    return ledger.outputs.store(job_id, 1, Output(ResponseStatus.COMPLETED, "A kettle."), actor=TEST)


def cancel(ledger: Ledger, job_id: int) -> Job:
    return ledger.outputs.cancelled(job_id, 1, actor=TEST, reason="enough", status=None)


def revise(ledger: Ledger, job_id: int) -> Job:
    return ledger.submission.open(job_spec(input=OTHER)).job


def expire(ledger: Ledger, job_id: int) -> Job:
    return ledger.outputs.fail(job_id, 1, actor=TEST, reason="too late", error={"kind": "deadline"})


ENDS = pytest.mark.parametrize(
    ("end", "state", "disposition"),
    [
        (store, JobState.REVIEW, D.DUPLICATE),
        (cancel, JobState.CANCELLED, D.LATE),
        (revise, JobState.QUEUED, D.LATE),
        (expire, JobState.FAILED, D.LATE),
    ],
)


class TestWebhookAndEnd:
    """A revision ends, while the webhook of its response arrives."""

    @ENDS
    def test_a_webhook_that_waited_for_its_job_sees_what_became_of_job_and_revision(
        self, slow: Ledger, other: Ledger, race: Race, end: Any, state: JobState, disposition: Disposition
    ) -> None:
        running = submit(other, job_spec())
        _, entry = race.run(lambda: end(slow, running.job_id), lambda: deliver(other))
        assert (entry.disposition, other.job(running.job_id).state) == (disposition, state)
        assert count(other, running.job_id, JobEvent.RESPONSE_ENDED) == 0
        assert count(other, running.job_id, JobEvent.OUTPUT_LATE) == (disposition is D.LATE)

    @ENDS
    def test_a_webhook_that_comes_first_is_applied_and_the_revision_ends_after_it(
        self, slow: Ledger, other: Ledger, race: Race, end: Any, state: JobState, disposition: Disposition
    ) -> None:
        running = submit(other, job_spec())
        entry, _ = race.run(lambda: deliver(slow), lambda: end(other, running.job_id))
        assert (entry.disposition, other.job(running.job_id).state) == (D.APPLIED, state)
        assert count(other, running.job_id, JobEvent.RESPONSE_ENDED) == 1

    def test_a_webhook_does_not_hold_the_revision_while_it_waits_for_the_job(
        self, other: Ledger, race: Race, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lock on the job comes first, or the two would wait for each other."""
        running = submit(other, job_spec())
        read = output_store.read_revision

        def pause_and_read(*args: Any) -> Revision:
            race.pause()
            return read(*args)

        monkeypatch.setattr(output_store, "read_revision", pause_and_read)
        job, entry = race.run(lambda: cancel(other, running.job_id), lambda: deliver(other))
        assert (job.state, entry.disposition) == (JobState.CANCELLED, D.LATE)

    def test_a_revision_that_got_another_response_while_its_webhook_waited_is_read_again(
        self, slow: Ledger, other: Ledger, race: Race
    ) -> None:
        job = open_job(other)
        lose(other, job, intend(other, job))
        intent = intend(other, job)
        deliver(other)
        race.run(lambda: submitted(slow, job, intent, "resp_2"), lambda: adopt(other, job.job_id))
        assert other.revision(job.job_id, 1).response_id == "resp_1"
        assert [surplus.response_id for surplus in other.surplus.of_job(job.job_id)] == ["resp_2"]


@pytest.mark.parametrize("seed", range(3))
def test_any_mixture_of_steps_ends_without_a_deadlock_and_with_every_webhook_accounted_for(
    other: Ledger, seed: int
) -> None:
    threads, jobs = 8, 3
    opened = [open_job(other, job_key=f"note:{number}", max_revisions=1000) for number in range(jobs)]
    start = threading.Barrier(threads)

    def steps(number: int) -> list[Callable[[], Any]]:
        job = other.job(opened[number].job_id)
        name, response = f"wh_{number}_{job.revision}", f"resp_{number}_{job.revision}"

        def send() -> None:
            intent = intend(other, job, OVER)
            if intent.token is not None:
                submitted(other, job, intent, response)

        return [
            send,
            send,
            lambda: deliver(other, name, response),
            lambda: deliver(other, f"{name}_again", response),
            lambda: other.inbox.correlate(name),
            lambda: adopt(other, job.job_id, name, number=job.revision),
            lambda: other.inbox.polled(name, note="404", again=True),
            lambda: other.inbox.replay(name, actor=Actor.program("alice")),
            lambda: other.inbox.discard(name, actor=Actor.program("alice"), why="?"),
            lambda: other.outputs.store(job.job_id, job.revision, BILLED, actor=TEST),
            lambda: expire(other, job.job_id),
            lambda: other.submission.open(job_spec(job_key=job.job_key, max_revisions=1000)),
            lambda: other.submission.open(
                job_spec(job_key=job.job_key, max_revisions=1000, input={"input": str(random.random())})  # noqa: S311
            ),
        ]

    def run(number: int) -> None:
        chance = random.Random(f"{seed}/{number}")  # noqa: S311
        start.wait(10)
        for _ in range(60):
            with suppress(HandoffError):  # a step that comes too late, or too early
                chance.choice(steps(chance.randrange(jobs)))()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(threads)))
    check_histories(other)
    for entry in other.inbox.entries(limit=10_000):
        known = [
            revision
            for job in opened
            for revision in other.record(job.job_id).revisions
            if revision.response_id == entry.response_id
        ]
        assert entry.disposition is not D.QUARANTINED or not known
