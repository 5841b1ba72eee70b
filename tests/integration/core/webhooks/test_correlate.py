"""Asking OpenAI whose response a webhook is about: over real HTTP, one request a poll, and never an error."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from openai import OpenAI

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.provider import ModelProvider, ModelResponse, own_metadata
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, InboxEntry, Job
from airflow_provider_aihandoff.core.states import Disposition, JobEvent, JobState, ResponseStatus
from airflow_provider_aihandoff.core.webhooks.correlate import find_owner
from airflow_provider_aihandoff.core.webhooks.inbox import POLL_AFTER, Delivery
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.factories import LEASE, TEST, job_spec, submit

D = Disposition
REQUEST = {"model": "gpt-5.2", "input": "Write about the kettle."}
_names = (f"wh_{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[OpenAIStandIn, str]]:
    stand_in = OpenAIStandIn(delay_seconds=0)
    with stand_in.serve() as running:
        yield stand_in, running.base_url


@pytest.fixture
def stand_in(served: tuple[OpenAIStandIn, str]) -> OpenAIStandIn:
    served[0].reset()
    return served[0]


@pytest.fixture
def provider(served: tuple[OpenAIStandIn, str], stand_in: OpenAIStandIn) -> Iterator[ModelProvider]:
    with OpenAI(base_url=served[1], api_key="any", timeout=5) as client:
        yield OpenAIProvider(client)


@pytest.fixture
def job(ledger: Ledger) -> Iterator[Job]:
    """A job whose request is in transit."""
    job = ledger.submission.open(job_spec()).job
    assert ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE).token is not None
    yield job
    record = ledger.record(job.job_id)
    assert first_break(record.events, record.job) is None


def create(provider: ModelProvider, ledger: Ledger, faults: str = "", **names: Any) -> str:
    """Have OpenAI run a response whose id the ledger does not know; it has ended at once."""
    metadata = own_metadata(**{"job_id": 1, "revision": 1, "ledger_id": ledger.ledger_id(), **names})
    return create_with(provider, {"standin": faults, **metadata})


def create_with(provider: ModelProvider, metadata: dict[str, str]) -> str:
    """The same, with these metadata alone."""
    created = provider.create(REQUEST, metadata, timeout=5)
    assert isinstance(created, ModelResponse)
    return created.id


def deliver(ledger: Ledger, response_id: str, status: str = "completed") -> InboxEntry:
    event = {"type": f"response.{status}", "data": {"id": response_id}}
    delivery = Delivery(next(_names), "openai_default", f"response.{status}", response_id, event)
    return ledger.inbox.receive(delivery).entry


class TestOurs:
    def test_the_job_that_its_metadata_names_gets_it(
        self, ledger: Ledger, provider: ModelProvider, stand_in: OpenAIStandIn, job: Job
    ) -> None:
        response_id = create(provider, ledger)
        entry = find_owner(ledger, deliver(ledger, response_id).webhook_id, provider)
        assert (entry.disposition, entry.job_id, entry.poll_at) == (D.APPLIED, job.job_id, None)
        record = ledger.record(job.job_id)
        assert (record.job.state, record.revision.response_id) == (JobState.RUNNING, response_id)
        assert record.events[-1].actor == "webhook:openai_default"
        assert stand_in.responses().retrieves == 1

    def test_a_response_that_was_found_is_not_asked_about_again(
        self, ledger: Ledger, provider: ModelProvider, stand_in: OpenAIStandIn, job: Job
    ) -> None:
        name = deliver(ledger, create(provider, ledger)).webhook_id
        assert find_owner(ledger, name, provider) == find_owner(ledger, name, provider)
        assert stand_in.responses().retrieves == 1

    def test_openai_is_not_asked_where_the_ledger_knows_by_now(
        self, ledger: Ledger, provider: ModelProvider, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = deliver(ledger, "resp_1").webhook_id
        ledger.inbox.discard(name, actor=Actor.program("alice"), why="?")
        submit(ledger, job_spec())
        with monkeypatch.context() as interrupted:
            interrupted.setattr(ledger.inbox, "correlate", ledger.inbox.read)
            assert ledger.inbox.replay(name, actor=Actor.program("alice")).disposition is D.QUARANTINED
        assert find_owner(ledger, name, provider).disposition is D.APPLIED
        assert stand_in.responses().retrieves == 0

    def test_an_orphan_is_late_with_its_cost_in_the_history_once(
        self, ledger: Ledger, provider: ModelProvider, stand_in: OpenAIStandIn
    ) -> None:
        running = submit(ledger, job_spec(), "resp_2")
        response_id = create(provider, ledger)
        names = [deliver(ledger, response_id).webhook_id for _ in range(2)]
        assert [find_owner(ledger, name, provider).disposition for name in names] == [D.LATE, D.DUPLICATE]
        late = [line for line in ledger.record(running.job_id).events if line.event == JobEvent.OUTPUT_LATE]
        assert len(late) == 1
        assert late[0].detail["response_id"] == response_id
        assert float(late[0].detail["cost_usd"]) > 0
        assert ledger.inbox.due(10) == []

    @pytest.mark.parametrize(("job_id", "number"), [(99, 1), (1, 99), (10**17, 1)])
    def test_a_revision_that_is_not_in_this_ledger_is_no_error_and_left_to_a_person(
        self, ledger: Ledger, provider: ModelProvider, job: Job, job_id: int, number: int
    ) -> None:
        name = deliver(ledger, create(provider, ledger, job_id=job_id, revision=number)).webhook_id
        entry = find_owner(ledger, name, provider)
        assert (entry.disposition, entry.poll_at) == (D.QUARANTINED, None)
        assert entry.note == f"this ledger has no revision {number} of a job {job_id}"
        assert find_owner(ledger, name, provider) == entry

    def test_a_response_that_is_older_than_its_revision_is_left_to_a_person(
        self, ledger: Ledger, provider: ModelProvider, job: Job, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        response_id = create(provider, ledger)
        retrieve = provider.retrieve

        def an_old_one(wanted: str) -> ModelResponse:
            response = retrieve(wanted)
            assert response.created_at is not None
            return replace(response, created_at=response.created_at - timedelta(hours=1))

        monkeypatch.setattr(provider, "retrieve", an_old_one)
        entry = find_owner(ledger, deliver(ledger, response_id).webhook_id, provider)
        assert (entry.disposition, entry.poll_at) == (D.QUARANTINED, None)
        assert "older than revision 1" in str(entry.note)
        assert ledger.job(job.job_id).state is JobState.QUEUED


class TestForeign:
    @pytest.mark.parametrize(
        ("names", "whose"),
        [
            ({"ledger_id": str(uuid4())}, "another ledger"),
            ({"ledger_id": ""}, "another application"),
        ],
    )
    def test_a_response_of_another_ledger_or_application_is_foreign(
        self, ledger: Ledger, provider: ModelProvider, job: Job, names: dict[str, str], whose: str
    ) -> None:
        entry = find_owner(ledger, deliver(ledger, create(provider, ledger, **names)).webhook_id, provider)
        assert (entry.disposition, entry.job_id, entry.poll_at) == (D.FOREIGN, None, None)
        assert entry.note == f"its response belongs to {whose}"
        assert ledger.job(job.job_id).state is JobState.QUEUED

    @pytest.mark.parametrize("metadata", [{}, {"aihandoff_job": "1", "aihandoff_revision": "1"}])
    def test_without_the_pairs_that_name_a_job_it_belongs_to_another_application(
        self, ledger: Ledger, provider: ModelProvider, job: Job, metadata: dict[str, str]
    ) -> None:
        response_id = create_with(provider, metadata)
        entry = find_owner(ledger, deliver(ledger, response_id).webhook_id, provider)
        assert (entry.disposition, entry.note) == (D.FOREIGN, "its response belongs to another application")

    @pytest.mark.parametrize("number", ["", "0", "-1", "1.0", "x", "٣", "²", " 1", "1\n", "9" * 512])
    def test_a_number_that_this_ledger_has_never_given_is_no_error(
        self, ledger: Ledger, provider: ModelProvider, job: Job, number: str
    ) -> None:
        for names in ({"job_id": number}, {"revision": number}):
            entry = find_owner(ledger, deliver(ledger, create(provider, ledger, **names)).webhook_id, provider)
            assert entry.disposition is D.FOREIGN


class TestNotNow:
    @pytest.mark.parametrize("fault", ["404", "429", "500", "503", "html", "wrong_id", "drop"])
    def test_a_response_with_a_temporary_error_is_asked_about_again_later_and_then_found(
        self, ledger: Ledger, provider: ModelProvider, stand_in: OpenAIStandIn, job: Job, fault: str
    ) -> None:
        name = deliver(ledger, create(provider, ledger, f"retrieve={fault}")).webhook_id
        entry = find_owner(ledger, name, provider)
        assert (entry.disposition, entry.polls) == (D.QUARANTINED, 1)
        assert entry.poll_at is not None
        assert round((entry.poll_at - entry.updated_at).total_seconds()) == POLL_AFTER[1]
        assert "OpenAI" in str(entry.note)
        assert stand_in.responses().retrieves == 1
        assert find_owner(ledger, name, provider).disposition is D.APPLIED

    @pytest.mark.parametrize(
        ("fault", "note"),
        [
            ("404", "OpenAI does not find the response {} (404)"),
            ("500", "OpenAI answered 500 for {}"),
            ("drop", "OpenAI did not answer (APIConnectionError)"),
            ("html", "asked OpenAI for {}, got something else"),
            ("wrong_id", "asked OpenAI for {}, got something else"),
        ],
    )
    def test_the_note_says_what_came_in_the_place_of_an_answer(
        self, ledger: Ledger, provider: ModelProvider, fault: str, note: str
    ) -> None:
        response_id = create(provider, ledger, f"retrieve={fault}")
        name = deliver(ledger, response_id).webhook_id
        assert find_owner(ledger, name, provider).note == note.format(response_id)

    def test_a_response_that_is_gone_is_asked_about_a_few_times_and_then_left_to_a_person(
        self, ledger: Ledger, provider: ModelProvider, stand_in: OpenAIStandIn
    ) -> None:
        name = deliver(ledger, "resp_gone").webhook_id
        for _ in range(len(POLL_AFTER) + 3):
            entry = find_owner(ledger, name, provider)
        assert (entry.disposition, entry.polls, entry.poll_at) == (D.QUARANTINED, len(POLL_AFTER), None)
        assert stand_in.responses().retrieves == len(POLL_AFTER)

    def test_a_response_that_runs_although_its_webhook_says_otherwise_is_asked_about_again(
        self, ledger: Ledger, provider: ModelProvider, job: Job
    ) -> None:
        name = deliver(ledger, create(provider, ledger, "delay=60")).webhook_id
        entry = find_owner(ledger, name, provider)
        assert (entry.disposition, entry.note) == (
            D.QUARANTINED,
            "OpenAI says that it has not ended",
        )
        assert ledger.job(job.job_id).state is JobState.QUEUED

    def test_a_webhook_that_was_applied_while_openai_was_asked_is_due_no_more(
        self, ledger: Ledger, provider: ModelProvider, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = ledger.submission.open(job_spec()).job
        token = ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE).token
        assert token is not None
        retrieve = provider.retrieve

        def the_worker_stores_the_id(wanted: str) -> ModelResponse:
            ledger.submission.submitted(1, 1, token=token, response_id=wanted, status=ResponseStatus.QUEUED, actor=TEST)
            return retrieve(wanted)

        monkeypatch.setattr(provider, "retrieve", the_worker_stores_the_id)
        name = deliver(ledger, create(provider, ledger, "retrieve=404")).webhook_id
        entry = find_owner(ledger, name, provider)
        assert (entry.disposition, entry.polls, entry.poll_at) == (D.APPLIED, 0, None)


class TestLate:
    def late(self, ledger: Ledger, provider: ModelProvider, faults: str = "") -> InboxEntry:
        response_id = create(provider, ledger, faults)
        running = submit(ledger, job_spec(), response_id)
        ledger.outputs.cancelled(running.job_id, 1, actor=TEST, reason="enough", status=None)
        return deliver(ledger, response_id)

    def test_the_cost_of_a_response_that_was_given_up_is_stored_with_its_revision(
        self, ledger: Ledger, provider: ModelProvider, stand_in: OpenAIStandIn
    ) -> None:
        webhook = self.late(ledger, provider)
        assert webhook.disposition is D.LATE
        entry = find_owner(ledger, webhook.webhook_id, provider)
        assert (entry.disposition, entry.poll_at, entry.note) == (D.LATE, None, "its cost is on the record")
        record = ledger.record(1)
        assert record.revision.usage is not None
        assert record.revision.cost_usd
        assert record.revision.output is None
        assert record.job.state is JobState.CANCELLED
        assert find_owner(ledger, webhook.webhook_id, provider) == entry
        assert stand_in.responses().retrieves == 1

    def test_without_usage_from_openai_the_note_does_not_mention_a_cost(
        self, ledger: Ledger, provider: ModelProvider
    ) -> None:
        entry = find_owner(ledger, self.late(ledger, provider, "usage=null").webhook_id, provider)
        assert (entry.poll_at, entry.note) == (None, "OpenAI reports no usage")
        assert ledger.record(1).revision.usage is None

    def test_openai_is_asked_again_later_if_it_does_not_answer(self, ledger: Ledger, provider: ModelProvider) -> None:
        webhook = self.late(ledger, provider, "retrieve=500")
        name = webhook.webhook_id
        entry = find_owner(ledger, name, provider)
        assert (entry.disposition, entry.polls, entry.note) == (
            D.LATE,
            1,
            f"OpenAI answered 500 for {webhook.response_id}",
        )
        assert entry.poll_at is not None
        assert find_owner(ledger, name, provider).note == "its cost is on the record"
