"""What reviewers do while the approval task waits: edit, request changes, get notified, let time pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import BaseNotifier

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, rules_of
from airflow_provider_aihandoff.core.states import JobState, RevisionState
from airflow_provider_aihandoff.operators import notices
from airflow_provider_aihandoff.policies import Approve, AskPerson
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.testing import OpenAIStandIn, ResponderRequest
from tests.integration.operators.conftest import Model, RunDag
from tests.integration.operators.tasks import NOTE, Policy, ask, fault, publish, store
from tests.people import insist
from tests.target import Answer, Target

Record = Callable[[], JobRecord]
Step = Callable[[Ledger, Job], Any]
BOB, CAROL = Person("bob"), Person("carol")

pytestmark = pytest.mark.usefixtures("wait_in")


def pipeline(then: Callable[[Any], Any] = publish, asks: dict[str, Any] | None = None, **arguments: Any) -> None:
    """Ask the model, ask people, write."""
    draft = ask(**(asks or {}))
    draft >> ApprovalSensor(task_id="approve", job=draft, **arguments) >> then(draft)


@contextmanager
def people(ledger: Ledger, *steps: Step) -> Iterator[None]:
    """People who do one thing after the other, each as soon as the job asks for a decision again."""
    failed: list[BaseException] = []

    def act() -> None:
        seen: set[int] = set()
        try:
            for step in steps:
                job = wait_for_question(seen)
                if job is None:
                    return
                step(ledger, job)
        except BaseException as error:  # noqa: BLE001 - it is raised in the test's own thread
            failed.append(error)

    def wait_for_question(seen: set[int]) -> Job | None:
        """The job, once it asks about a plan that it has not asked about to these people."""
        while not over.wait(0.02):
            for job in ledger.jobs():
                planned = [each for each in ledger.record(job.job_id).events if each.event.startswith("plan")]
                if job.state is JobState.REVIEW and job.review_digest is not None and planned[-1].seq not in seen:
                    seen.add(planned[-1].seq)
                    return job
        return None

    over = threading.Event()
    thread = threading.Thread(target=insist(act))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert failed == []


def decide(verdict: Any, comment: str | None = None, person: Person = BOB) -> Step:
    return lambda ledger, job: ledger.reviews.decide(
        job.job_id, verdict, digest=str(job.review_digest), person=person, comment=comment
    )


def edit(output: Any, person: Person = BOB) -> Step:
    return lambda ledger, job: ledger.reviews.edit(
        job.job_id, digest=str(job.review_digest), output=output, person=person
    )


def events(record: Record) -> list[str]:
    found = record()
    assert first_break(found.events, found.job) is None
    return [event.event for event in found.events]


class TestEdit:
    def test_the_edited_text_is_what_is_written(
        self, run: RunDag, ledger: Ledger, record: Record, target: Target
    ) -> None:
        with people(ledger, edit({**NOTE, "title": "Pan"}), decide("approve")):
            done = run(pipeline)
        assert done.states == {"draft": "success", "approve": "success", "publish": "success"}
        assert [sent.json["title"] for sent in target.received] == ["Pan"]
        assert [revision.author for revision in record().revisions] == ["model", "bob"]
        assert record().job.state is JobState.COMPLETED

    def test_an_edit_that_the_output_type_rejects_is_refused_with_its_message_and_nothing_is_lost(
        self, run: RunDag, ledger: Ledger, record: Record, target: Target
    ) -> None:
        with people(ledger, edit({"title": 1, "body": "b"}), decide("approve")):
            run(pipeline)
        refused = record().revisions[1]
        assert (refused.state, (refused.error or {})["output"]) == (RevisionState.FAILED, {"title": 1, "body": "b"})
        (reason,) = (event.reason for event in record().events if event.event == "edit refused")
        assert reason == "the edit is not taken: title: Input should be a valid string"
        assert [sent.json["title"] for sent in target.received] == ["Kettle"]

    def test_a_policy_does_not_approve_what_a_person_has_edited(
        self, run: RunDag, ledger: Ledger, record: Record
    ) -> None:
        policy = Policy(AskPerson("please check"))

        def edit_it(ledger: Ledger, job: Job) -> None:
            policy.verdict = Approve("fine")
            edit({**NOTE, "title": "Pan"})(ledger, job)

        with people(ledger, edit_it, decide("approve")):
            run(lambda: pipeline(policy=policy))
        assert [decision.decided_by for decision in record().decisions] == ["bob"]
        assert rules_of(record().job).because == {"policy": "test@1", "reason": "a person has worked on it"}


class TestRequestChanges:
    @pytest.fixture(autouse=True)
    def _writes(self, model: Model) -> None:
        """The model writes what it was asked last into the title."""

        def answer(request: ResponderRequest) -> dict[str, str]:
            return {**NOTE, "title": "Changed" if "Requested changes: Shorter." in request.input_text else "First"}

        model.output = answer

    def test_the_model_makes_another_revision_and_people_are_asked_again(
        self, run: RunDag, ledger: Ledger, record: Record, target: Target, stand_in: OpenAIStandIn
    ) -> None:
        with people(ledger, decide("request changes", "Shorter."), decide("approve", person=CAROL)):
            done = run(pipeline)
        assert done.states == {"draft": "success", "approve": "success", "publish": "success"}
        assert [sent.json["title"] for sent in target.received] == ["Changed"]
        first, second = record().revisions
        assert (second.based_on, second.changes, second.request["previous_response_id"]) == (
            1,
            "Shorter.",
            first.response_id,
        )
        assert [each.verdict for each in record().decisions] == ["request changes", "approve"]
        assert len(stand_in.responses().responses) == 2

    def test_a_response_that_takes_long_is_waited_for_without_a_worker_slot(
        self, run: RunDag, ledger: Ledger, record: Record, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW__AIHANDOFF__INLINE_WAIT", "0")
        with people(ledger, decide("request changes", "Shorter."), decide("approve")):
            done = run(lambda: pipeline(asks={"metadata": fault("delay=0.5")}))
        assert done.states["approve"] == "success"
        assert [sent.json["title"] for sent in target.received] == ["Changed"]

    def test_a_change_of_a_response_that_openai_no_longer_has_sends_the_whole_text(
        self, run: RunDag, ledger: Ledger, record: Record, target: Target, stand_in: OpenAIStandIn
    ) -> None:
        def forget(ledger: Ledger, job: Job) -> None:
            stand_in.reset()
            decide("request changes", "Shorter.")(ledger, job)

        with people(ledger, forget, decide("approve")):
            run(pipeline)
        request = record().revisions[1].request
        assert "previous_response_id" not in request
        assert [item["role"] for item in request["input"]] == ["user", "assistant", "user"]
        assert [sent.json["title"] for sent in target.received] == ["Changed"]

    def test_where_the_model_fails_people_are_asked_about_the_previous_revision_again(
        self, run: RunDag, ledger: Ledger, record: Record, model: Model, target: Target
    ) -> None:
        def break_it(ledger: Ledger, job: Job) -> None:
            model.output = "no JSON"
            decide("request changes", "Shorter.")(ledger, job)

        with people(ledger, break_it, decide("approve")):
            done = run(pipeline)
        assert done.states["approve"] == "success"
        assert [sent.json["title"] for sent in target.received] == ["First"]
        (reason,) = (event.reason for event in record().events if event.event == "change failed")
        assert (reason or "").startswith("the change was not made: the output does not match Note")

    def test_changes_of_a_job_of_another_dag_are_refused_with_the_reason(
        self, run: RunDag, ledger: Ledger, record: Record, review: Job
    ) -> None:
        with people(ledger, decide("request changes", "Shorter."), decide("approve")):
            run(lambda: ApprovalSensor(task_id="approve", job=review.job_id) >> publish(review.job_id))
        (reason,) = (event.reason for event in record().events if event.event == "change failed")
        assert "has no task that asks the model for this job" in (reason or "")

    def test_secrets_of_the_request_are_sent_again_and_kept_nowhere(
        self, run: RunDag, ledger: Ledger, record: Record, stand_in: OpenAIStandIn
    ) -> None:
        tools = [{"type": "mcp", "server_label": "a", "server_url": "http://a", "headers": {"Authorization": "s3cret"}}]
        with people(ledger, decide("request changes", "Shorter."), decide("approve")):
            run(lambda: pipeline(asks={"tools": tools}))
        requests: list[dict[str, Any]] = [stand_in._state.responses()[number].request for number in (0, 1)]
        sent = [request["tools"][0]["headers"]["Authorization"] for request in requests]
        assert sent == ["s3cret", "s3cret"]
        assert "s3cret" not in str(record())


def when_notified(record: Record, times: int, step: Step) -> Step:
    """A person who acts only after this many notifications: a decision before one makes it obsolete."""

    def wait(ledger: Ledger, job: Job) -> None:
        while events(record).count("notified") < times:
            time.sleep(0.02)
        step(ledger, job)

    return wait


class Remembers(BaseNotifier):
    """A notifier that remembers what it was to say."""

    template_fields = ("text",)
    said: list[str]

    def __init__(self, text: str, said: list[str], fails: int = 0) -> None:
        super().__init__()
        self.text, self.said, self.left = text, said, [fails]

    def notify(self, context: Any) -> None:
        if self.left[0]:
            self.left[0] -= 1
            raise OSError("no such host")
        self.said.append(self.text)


class TestNotices:
    TEXT = "{{ handoff.notice }}: {{ handoff.message }} {{ handoff.link }}"

    @pytest.fixture(autouse=True)
    def _base_url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/prefix")

    def test_people_are_notified_at_each_step_with_a_link_and_no_content(
        self, run: RunDag, ledger: Ledger, record: Record
    ) -> None:
        said: list[str] = []

        with people(ledger, when_notified(record, 3, decide("approve", person=CAROL))):
            run(
                lambda: pipeline(
                    notifiers=[Remembers(self.TEXT, said)],
                    approvers=Approvers(users=["bob"]),  # type: ignore[arg-type]
                    remind_after=timedelta(seconds=0.2),
                    escalate_after=timedelta(seconds=0.4),
                    escalate_to=Approvers(users=["carol"]),  # type: ignore[arg-type]
                )
            )
        assert [each.partition(":")[0] for each in said] == ["asked", "reminder", "escalation", "decided"]
        assert said[0].startswith("asked: publishing post:kettle waits for your decision. Decide by 20")
        assert all(each.endswith("https://airflow.example/prefix/aihandoff/jobs/1") for each in said)
        assert NOTE["title"] not in str(said)
        assert events(record).count("notified") == 4

    def test_the_author_can_add_content_to_a_notification(self, run: RunDag, ledger: Ledger, record: Record) -> None:
        said: list[str] = []
        with people(ledger, when_notified(record, 1, decide("approve"))):
            run(lambda: pipeline(notifiers=[Remembers("{{ job.output.title }} {{ handoff.state }}", said)]))
        assert said == ["Kettle review", "Kettle approved"]

    def test_a_notifier_that_fails_is_tried_again_and_keeps_no_one_from_deciding(
        self, run: RunDag, ledger: Ledger, record: Record, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(notices, "NOTICE_RETRY", 0.2)
        said: list[str] = []
        with people(ledger, when_notified(record, 1, decide("approve"))):
            done = run(lambda: pipeline(notifiers=[Remembers(self.TEXT, said, fails=2)]))
        assert done.states["publish"] == "success"
        assert [each.partition(":")[0] for each in said] == ["asked", "decided"]

    def test_no_one_is_notified_of_what_a_policy_has_approved(self, run: RunDag) -> None:
        said: list[str] = []
        run(lambda: pipeline(policy=Policy(), notifiers=[Remembers(self.TEXT, said)]))
        assert said == []


class TestTime:
    def test_a_policy_may_approve_an_expired_review(self, run: RunDag, record: Record, target: Target) -> None:
        late = Policy(Approve("harmless"))
        run(lambda: pipeline(timeout=timedelta(seconds=0.2), on_timeout=late))
        (decision,) = record().decisions
        assert (decision.decided_by, decision.comment) == ("test@1", "no one decided in time; harmless")
        assert len(target.received) == 1

    def test_a_policy_that_does_not_approve_rejects_an_expired_review(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        run(lambda: pipeline(timeout=timedelta(seconds=0.2), on_timeout=Policy(AskPerson("no"))))
        assert (record().job.state, target.received) == (JobState.REJECTED, [])


class TestRules:
    def test_the_author_says_who_must_approve_and_how_many(self, run: RunDag, ledger: Ledger, record: Record) -> None:
        def both(ledger: Ledger, job: Job) -> None:
            decide("approve", person=BOB)(ledger, job)
            decide("approve", person=CAROL)(ledger, job)

        with people(ledger, both):
            done = run(
                lambda: pipeline(approvers=Approvers(users=["bob", "carol"]), approvals=2)  # type: ignore[arg-type]
            )
        assert done.states["publish"] == "success"
        assert [each.decided_by for each in record().decisions] == ["bob", "carol"]

    def test_a_policy_may_want_particular_people(self, run: RunDag, ledger: Ledger, record: Record) -> None:
        wanted = AskPerson("a large amount", approvers=Approvers(users=("carol",)), approvals=1)
        with people(ledger, decide("approve", person=CAROL)):
            run(lambda: pipeline(policy=Policy(wanted)))
        assert rules_of(record().job).approvers == Approvers(users=("carol",))
        assert rules_of(record().job).because == {"policy": "test@1", "reason": "a large amount"}

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"approvals": 0}, "approvals must be at least 1"),
            ({"approvals": 2, "approvers": Approvers(users=("bob",))}, "2 must approve, and approvers names only bob"),
            ({"escalate_after": timedelta(1)}, "escalate_after and escalate_to go together"),
            (
                {"escalate_after": timedelta(1), "escalate_to": Approvers(users=("bob",))},
                "escalate_to needs approvers",
            ),
            ({"on_timeout": "shrug"}, "on_timeout must be"),
        ],
    )
    def test_impossible_review_rules_are_refused_when_the_dag_is_parsed(
        self, arguments: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(ValueError, match=said):
            ApprovalSensor(task_id="approve", job=1, **arguments)


class TestCurrent:
    def test_reviewers_see_what_the_target_has_now(
        self, run: RunDag, ledger: Ledger, record: Record, target: Target, sales: Any
    ) -> None:
        sales.execute("INSERT INTO reports (title) VALUES ('old')")
        target.answers = [Answer(200, {"title": "Old", "password": "s3cret"})]

        def both(draft: Any) -> Sequence[Any]:
            return [
                publish(draft, current="/posts/kettle"),
                store(draft, current="SELECT report_id, title FROM reports WHERE title <> %(title)s"),
            ]

        with people(ledger, decide("approve")):
            run(lambda: pipeline(both))
        published, stored = record().effects
        assert (published.current or {})["record"] == {"title": "Old", "password": "***"}
        assert (stored.current or {})["record"] == {"report_id": 1, "title": "old"}

    def test_reviewers_see_that_the_target_cannot_be_read_and_can_still_decide(
        self, run: RunDag, ledger: Ledger, record: Record, target: Target
    ) -> None:
        target.answers = [Answer(500, {})]
        with people(ledger, decide("approve")):
            run(lambda: pipeline(lambda draft: publish(draft, current="/posts/kettle")))
        (effect,) = record().effects
        assert "the target answered 500" in (effect.current or {})["error"]
        assert effect.state == "applied"
