"""The real ledger under every mixture of steps, beside a model of the outside world that counts what really happened.

Hypothesis chooses who does what next: tasks of a Dag, which run the real protocols and pause, go on or die at
any of their crash points; OpenAI and its webhooks; people; the clock. After every step the ledger is compared with
the world.

`AIHANDOFF_MACHINE_EXAMPLES` and `AIHANDOFF_MACHINE_STEPS` make it longer.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from airflow_provider_aihandoff.core import crashpoints
from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.effects import apply as applying
from airflow_provider_aihandoff.core.effects import roll_back
from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.generation import stop
from airflow_provider_aihandoff.core.generation import submit as submitting
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.generation.submission_store import MAX_UNKNOWN_SUBMISSIONS
from airflow_provider_aihandoff.core.jobs.attach import Attachment
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, EffectPlan, Event
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import (
    JOB_TRANSITIONS,
    TERMINAL_JOB_STATES,
    TOUCHED_EFFECT_STATES,
    Disposition,
    EffectState,
    JobEvent,
    JobState,
    ResponseStatus,
    RevisionState,
)
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery, Receipt
from tests.conftest import EMPTY_LEDGER
from tests.factories import OWNER, TEST, job_spec
from tests.integration.core.outside import ANSWERS, CALL, CREATES, Created, OpenAIWorld, World, WorldTarget
from tests.integration.core.puppets import Puppet, reach

EXAMPLES = int(os.environ.get("AIHANDOFF_MACHINE_EXAMPLES", "30"))
STEPS = int(os.environ.get("AIHANDOFF_MACHINE_STEPS", "50"))

#: Tasks that are alive at the same time. Each one that stands after a commit has a connection.
MAX_TASKS = 4

#: What each kind of target can do. Its undo can do the same.
TARGETS = {
    "repeat": {"idempotent": True},
    "probe": {"can_probe": True},
    "both": {"idempotent": True, "can_probe": True},
    "neither": {},
}


def plan(name: str, text: str = "first", *, after: tuple[str, ...] = (), undo: bool = True) -> EffectPlan:
    request = {"method": "PUT", "url": f"http://cms/{name}", "body": text}
    removal = {"kind": "http", "plan": {"method": "DELETE", "url": f"http://cms/{name}"}} if undo else None
    return EffectPlan(name, "http", request, digest([request, removal, after]), request, removal, after)


#: What the Dag intends to write, from one edit of it to the next.
DAGS: dict[str, list[EffectPlan]] = {
    "ordered": [plan("repeat"), plan("probe", after=("repeat",)), plan("neither", after=("probe",))],
    "edited": [plan("repeat", "second"), plan("probe", "second", after=("repeat",))],
    "any order": [plan("neither"), plan("both")],
    "no undo": [plan("probe"), plan("repeat", undo=False)],
    "nothing": [],
}

#: In the clock's place: every time in the ledger is moved back.
PASS = """
    UPDATE aihandoff.effects SET claim_until = claim_until - interval '{seconds} s',
        unknown_since = unknown_since - interval '{seconds} s';
    UPDATE aihandoff.revisions SET submit_lease_until = submit_lease_until - interval '{seconds} s';
    UPDATE aihandoff.jobs SET review_deadline = review_deadline - interval '{seconds} s'"""

#: More points than any task has.
FOREVER = 100

which = st.integers(0, 7)
others = st.sampled_from([None, None, None, "ordered", None, "any order", "edited", None, "no undo"])
steps = st.integers(1, 9)
answers = st.sampled_from([*ANSWERS[:1] * 3, *ANSWERS])
creates = st.sampled_from(CREATES)


class Machine(RuleBasedStateMachine):
    """One job, everyone involved in it, and what really happened."""

    def __init__(self, ledger: Ledger, connection: psycopg.Connection[Any]) -> None:
        super().__init__()
        self.ledger, self.connection = ledger, connection
        connection.execute(EMPTY_LEDGER)
        self.world = World()
        self.provider = OpenAIWorld(self.world)
        self.tasks: list[Puppet] = []
        self.dag = "ordered"
        self.asked: dict[str, list[EffectPlan]] = {}
        """The plans that people were asked about, by digest."""
        self.approved: set[tuple[int, str]] = set()
        """What a person approved: revision and digest."""
        self.deliveries: Counter[str] = Counter()
        self.record: JobRecord | None = None
        crashpoints.arm(reach)
        applying._clock = lambda: self.world.clock
        vars(applying)["time"] = SimpleNamespace(sleep=self.sleep, monotonic=lambda: self.world.clock)
        vars(submitting)["time"] = SimpleNamespace(monotonic=lambda: self.world.clock)
        roll_back.undo_target = self.undo_target

    def teardown(self) -> None:
        for task in self.alive():
            task.kill()
        try:
            if sys.exc_info()[0] is None and self.record is not None:
                self.put_right()
        finally:
            crashpoints.arm(None)

    def put_right(self) -> None:
        """Every task is cleared, and everyone does what they should: then the job ends.

        Where something was written, that takes the Dag as it was when the plan was approved.
        """
        self.world.answer, self.world.create = ANSWERS[0], CREATES[0]
        for _ in range(len(DAGS["ordered"]) + 2):
            job = self.read_record().job
            if job.state in TERMINAL_JOB_STATES:
                break
            self.time_passes(40)
            text, approval = job.input["input"], job.approval
            self.start("draft", partial(self.draft, text, job.run_id, approval, False), FOREVER)
            self.catch_up()
            self.ask()
            if not DAGS[self.dag]:
                self.ledger.effects.complete_without_effects(self.job_id, actor=TEST)
            for intended in self.asked.get(str(self.read_record().job.review_digest), []):
                self.start("effect", partial(self.effect, intended), FOREVER)
            if self.is_in(JobState.ROLLING_BACK):
                self.start_roll_back("", ANSWERS[0], FOREVER)
            self.record = self.read_record()
            for _ in self.unknown():
                self.resolve(0)
                self.record = self.read_record()
        self.ledger_and_world_agree()
        assert self.record is not None
        assert self.record.job.state in TERMINAL_JOB_STATES, f"it stays {self.record.job.state}: {self.record.job}"

    # What the steps are made of.

    @property
    def job_id(self) -> int:
        return 1  # the sequences start again with every example

    def start(self, name: str, work: Callable[[], Any], steps: int) -> None:
        task = Puppet(name, work)
        self.tasks.append(task)
        self.let(task, steps)

    @staticmethod
    def let(task: Puppet, steps: int) -> None:
        """Let a task go on for some steps, or to its end."""
        for _ in range(steps):
            if not task.ended:
                task.go_on()
            if task.at == "asleep":
                return

    def has_room(self) -> bool:
        return len(self.alive()) < MAX_TASKS

    def is_in(self, *states: JobState) -> bool:
        return self.record is not None and self.record.job.state in states

    def written(self) -> bool:
        return any(self.world.written.values())

    def unknown(self) -> list[Effect]:
        effects = self.record.effects if self.record else []
        return [effect for effect in effects if effect.state is EffectState.UNKNOWN]

    def alive(self) -> list[Puppet]:
        self.tasks = [task for task in self.tasks if not task.ended]
        return self.tasks

    def pick(self, some: list[Any], index: int) -> Any:
        return some[index % len(some)]

    def read_record(self) -> JobRecord:
        return self.ledger.record(self.job_id)

    def draft(self, text: str, run: str, approval: str, regenerate: bool) -> None:
        """What the task does that asks the model."""
        request = {"model": "gpt-5.2", "input": text}
        owner = replace(OWNER, run_id=run)
        spec = job_spec(
            input=request,
            request=request,
            owner=owner,
            regenerate=regenerate,
            approval=approval,
            approval_reason=None if approval == "required" else "internal",
            max_revisions=6,
            on_lost="resend",
            deadline=datetime.now(UTC) + timedelta(days=30),
        )
        opened = self.ledger.submission.open(spec)
        if opened.superseded is not None and opened.superseded.response_id:
            self.provider.cancel(opened.superseded.response_id)
        if opened.next is Attachment.SUBMIT:
            revision = opened.revision
            while revision.state in (RevisionState.QUEUED, RevisionState.SUBMITTING):
                revision = submitting.submit(
                    self.ledger,
                    self.provider,
                    opened.job,
                    actor=owner.actor,
                    orphan_wait=timedelta(seconds=30),
                    sleep=lambda seconds: reach("asleep"),
                )
                if revision.state is RevisionState.SUBMITTING:
                    reach("asleep")

    def effect(self, intended: EffectPlan) -> Any:
        """What the task does that writes."""
        target = WorldTarget(self.world, self.check_call, **TARGETS[intended.name])
        return applying.apply_effect(self.ledger, self.job_id, intended, target, actor=TEST)

    def undo_target(self, undo: EffectPlan) -> WorldTarget:
        name = undo.name.removeprefix("undo:")
        return WorldTarget(self.world, self.check_call, **TARGETS[name])

    def sleep(self, seconds: float) -> None:
        """A task waits between two calls of a probe, and the clock goes on; whatever else happens then."""
        self.time_passes(seconds)
        reach("between two probes")

    # What may happen to a job.

    @initialize(
        phase=st.sampled_from(["approved", "review", "new", "approved", "approved", "applied"]),
        dag=st.sampled_from(["ordered", "any order", "ordered", "no undo", "any order", "nothing"]),
        approval=st.sampled_from(["required", "required", "not required"]),
    )
    def begin(self, phase: str, dag: str, approval: str) -> None:
        """Random steps alone seldom get past the first few states."""
        self.dag = dag
        self.start("draft", partial(self.draft, "kettle", "run_1", approval, False), FOREVER)
        if phase == "new":
            return
        self.model_ends(0)
        self.store(0)
        self.ask()
        if phase != "review" and approval == "required":
            self.approve(0)
        for intended in DAGS[dag] if phase == "applied" else []:
            self.start("effect", partial(self.effect, intended), FOREVER)

    @precondition(lambda self: self.has_room())
    @rule(
        text=st.sampled_from(["kettle", "kettle", "pan"]),
        run=st.sampled_from(["run_1", "run_2"]),
        approval=st.sampled_from(["required", "not required"]),
        regenerate=st.booleans(),
        create=creates,
        steps=steps,
    )
    def clear_draft(self, text: str, run: str, approval: str, regenerate: bool, create: str, steps: int) -> None:
        self.world.create = create
        self.start("draft", partial(self.draft, text, run, approval, regenerate), steps)

    @precondition(lambda self: self.is_in(JobState.QUEUED, JobState.RUNNING, JobState.REVIEW))
    @rule()
    def catch_up(self) -> None:
        """Everyone does what they should, up to the approval."""
        for number in range(len(self.world.responses)):
            self.model_ends(number)
            self.store(number)
        self.ask()
        if self.asked:
            self.approve(0)

    @precondition(lambda self: self.has_room() and self.is_in(JobState.APPROVED, JobState.APPLYING))
    @rule(index=which, answer=answers, steps=steps)
    def start_effect(self, index: int, answer: str, steps: int) -> None:
        """A task that writes starts, or starts again."""
        self.world.answer = answer
        if DAGS[self.dag]:
            self.start("effect", partial(self.effect, self.pick(DAGS[self.dag], index)), steps)

    @precondition(lambda self: self.has_room() and self.is_in(JobState.APPROVED, JobState.APPLYING))
    @rule(index=which, answer=answers)
    def apply(self, index: int, answer: str) -> None:
        """A task that writes runs to its end."""
        self.start_effect(index, answer, FOREVER)

    @precondition(lambda self: self.has_room())
    @rule(dag=others, index=which, answer=answers, steps=steps)
    def start_effect_of(self, dag: str | None, index: int, answer: str, steps: int) -> None:
        """A task that writes starts at any time, perhaps rendered from an older or a newer Dag."""
        self.world.answer = answer
        plans = DAGS[dag or self.dag]
        if plans:
            self.start("effect", partial(self.effect, self.pick(plans, index)), steps)

    @precondition(lambda self: self.has_room() and self.written())
    @rule(leave=st.sampled_from(["", "", "", *TARGETS]), answer=answers, steps=steps)
    def start_roll_back(self, leave: str, answer: str, steps: int) -> None:
        self.world.answer = answer
        leaving = (leave,) if leave else ()
        work = partial(
            roll_back.roll_back, self.ledger, self.job_id, actor=Actor.user("eve"), reason="no", leave=leaving
        )
        self.start("roll back", work, steps)

    @precondition(lambda self: self.alive())
    @rule(index=which, steps=steps, answer=answers, create=creates)
    def go_on(self, index: int, steps: int, answer: str, create: str) -> None:
        """A task goes on for some steps; the world answers as it likes."""
        self.world.answer, self.world.create = answer, create
        self.let(self.pick(self.tasks, index), steps)

    @precondition(lambda self: self.alive())
    @rule(index=which, before_commit=st.booleans())
    def kill(self, index: int, before_commit: bool) -> None:
        self.pick(self.tasks, index).kill(before_commit=before_commit)

    @rule(seconds=st.sampled_from([2, 6, 15, 40, 40]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock += seconds
        self.connection.execute(PASS.format(seconds=seconds))

    @precondition(lambda self: self.world.responses)
    @rule(
        what=st.sampled_from(["model_ends", "webhook", "webhook_again", "webhooks_together", "look_up", "store"]),
        index=which,
    )
    def openai(self, what: str, index: int) -> None:
        getattr(self, what)(index)

    def model_ends(self, index: int) -> None:
        response = self.pick(self.world.responses, index)
        if response.status == "queued":
            response.status = "completed"

    def webhook(self, index: int, suffix: str = "") -> None:
        """A webhook is delivered, perhaps not for the first time, perhaps before the id of its response is known."""
        response = self.pick(self.world.responses, index)
        if response.status == "queued":
            return
        self.recorded(self.ledger.inbox.receive(self.delivery(response, suffix)))

    def webhook_again(self, index: int) -> None:
        """OpenAI says the same in another webhook."""
        self.webhook(index, "-again")

    def webhooks_together(self, index: int) -> None:
        """The webhooks of all responses are delivered together, some of them twice, in any order."""
        ended = [response for response in self.world.responses if response.status != "queued"]
        deliveries = [
            self.delivery(response, suffix) for response in ended for suffix in ("", "-again")[: 1 + index % 2]
        ]
        deliveries = deliveries[index:] + deliveries[:index] + deliveries[: index // 2]
        receipts = self.ledger.inbox_batches.receive(deliveries)
        for taken in filter(None, receipts):
            self.recorded(taken)
        for delivery, receipt in zip(deliveries, receipts, strict=True):
            if receipt is None:
                self.recorded(self.ledger.inbox.receive(delivery))

    def delivery(self, response: Created, suffix: str) -> Delivery:
        kind = f"response.{response.status}"
        webhook_id = f"wh-{response.response_id}{suffix}"
        return Delivery(webhook_id, "openai_default", kind, response.response_id, {"type": kind})

    def recorded(self, receipt: Receipt) -> None:
        self.deliveries[receipt.entry.webhook_id] += 1
        assert receipt.repeated == (self.deliveries[receipt.entry.webhook_id] > 1)

    def look_up(self, index: int) -> None:
        """OpenAI is asked about the response of a webhook in quarantine, whose metadata names the revision."""
        response = self.pick(self.world.responses, index)
        webhook_id = f"wh-{response.response_id}"
        if webhook_id in self.deliveries:
            self.ledger.inbox.adopt(
                webhook_id,
                job_id=self.job_id,
                number=response.revision,
                created_at=datetime.now(UTC),
                output=Output(response.status, usage={"input_tokens": 1}),
                actor=Actor.program("webhook:openai_default"),
            )

    def store(self, index: int) -> None:
        """The task that waited for a response takes what it left."""
        response = self.pick(self.world.responses, index)
        for revision in self.read_record().revisions:
            if response.status == "queued" or revision.response_id != response.response_id:
                continue
            if response.status == "completed":
                output = Output(ResponseStatus.COMPLETED, f"A kettle, {revision.number}.", usage={"input_tokens": 1})
            else:
                output = Output(response.status, error={"kind": response.status})
            self.ledger.outputs.store(self.job_id, revision.number, output, actor=TEST)

    @rule(dag=others, again=st.booleans())
    def ask(self, dag: str | None = None, again: bool = False) -> None:
        """The Dag may be edited; then its plan is rendered, and a person is asked."""
        self.dag = dag or self.dag
        deadline = datetime.now(UTC) + timedelta(hours=1)
        before = self.read_record().job
        if again:
            ask = partial(self.ledger.reviews.ask_again, reason="the plan changed")
        else:
            ask = partial(self.ledger.reviews.ask, policy=None, on_timeout="reject")
        after = ask(self.job_id, DAGS[self.dag], deadline=deadline, actor=TEST)
        if after.review_digest != before.review_digest:
            self.asked[str(after.review_digest)] = DAGS[self.dag]

    @precondition(lambda self: self.asked and self.is_in(JobState.REVIEW))
    @rule(index=which)
    def approve(self, index: int) -> None:
        """A person approves what they saw: mostly the newest, sometimes what was asked before."""
        self.decide("approve", index)

    def decide(self, verdict: Any, index: int) -> None:
        before = self.read_record().job
        seen = self.pick([str(before.review_digest)] * 3 + list(self.asked), index)
        with suppress(HandoffError):
            self.ledger.reviews.decide(self.job_id, verdict, digest=seen, person=Person("bob"))
            if before.state is JobState.REVIEW:
                assert seen == before.review_digest, "a stale decision was taken"
                if verdict == "approve":
                    self.approved.add((before.revision, seen))

    @precondition(lambda self: self.asked and self.is_in(JobState.REVIEW))
    @rule(what=st.sampled_from(["edit", "request changes", "refuse edit", "tell"]), index=which)
    def review(self, what: str, index: int) -> None:
        """A person changes the output, or has it changed; or the task that asks finds something to do."""
        before = self.read_record().job
        seen = self.pick([str(before.review_digest)] * 3 + list(self.asked), index)
        reviews, bob = self.ledger.reviews, Person("bob")
        with suppress(HandoffError):
            match what:
                case "edit":
                    after = reviews.edit(self.job_id, digest=seen, output=f"Edited, {index}.", person=bob)
                case "request changes":
                    after = reviews.decide(self.job_id, "request changes", digest=seen, person=bob, comment="Shorter.")
                case "refuse edit":
                    error = {"kind": "mismatch"}
                    reviews.refuse_edit(self.job_id, before.revision, error=error, reason="too short", actor=TEST)
                    return
                case _:
                    reviews.notify(self.job_id, digest=seen, actor=TEST)
                    return
            if after.revision != before.revision:
                assert seen == before.review_digest, "something was changed that no one sees now"
                assert (after.review_digest, after.decision_id) == (None, None)

    @precondition(lambda self: self.has_room())
    @rule(what=st.sampled_from(["cancel", "complete", "reject", "expire", "deadline_passes"]), index=which, steps=steps)
    def end(self, what: str, index: int, steps: int) -> None:
        """A person cancels the job, or tries to."""
        match what:
            case "reject":
                self.decide("reject", index)
            case "cancel":
                work = partial(stop.cancel_job, self.ledger, lambda _: self.provider, self.job_id)
                self.start("cancel", partial(work, actor=Actor.user("eve"), reason="enough"), steps)
            case "expire":
                self.time_passes(4000)
                asked = str(self.read_record().job.review_digest)
                self.ledger.reviews.expire(self.job_id, digest=asked, fail=bool(index % 2))
            case "deadline_passes":
                number = self.read_record().job.revision
                self.ledger.outputs.fail(self.job_id, number, actor=TEST, reason="late", error={"kind": "deadline"})
            case "complete":
                self.ledger.effects.complete_without_effects(self.job_id, actor=TEST)

    @precondition(lambda self: self.unknown())
    @rule(index=which)
    def resolve(self, index: int) -> None:
        """A person has searched the target, and resolves the effect."""
        effect = self.pick(self.unknown(), index)
        applied = self.world.written[effect.effect_key] > 0
        external = f"record of {effect.effect_key}" if applied else None
        self.ledger.effects.resolve(
            effect.effect_id, applied=applied, external_id=external, actor=Actor.user("eve"), why="looked"
        )

    @precondition(lambda self: self.record and self.record.effects)
    @rule(index=which)
    def reconcile(self, index: int) -> None:
        effect: Effect = self.pick(self.read_record().effects, index)
        self.ledger.effects.give_up(effect.effect_id, actor=Actor.program("reconciler"))

    # What is so at the moment of a call.

    def check_call(self, key: str) -> None:
        """A request is about to reach a target."""
        record = self.read_record()
        job = record.job
        effect = next((effect for effect in record.effects if effect.effect_key == key), None)
        assert effect is not None, "an effect is sent that is not in the ledger"
        assert effect.state is EffectState.CLAIMED, f"an effect is sent that is {effect.state}"
        holders = [call for call in self.world.calls if call.key == key and not call.ended]
        assert all(call.began + CALL <= self.world.clock for call in holders), "two hold the claim at once"
        states = {other.name: other.state for other in record.effects if other.revision == effect.revision}
        assert all(states[name] is EffectState.APPLIED for name in effect.after_effects), "out of order"
        if effect.undoes is not None:
            assert job.state is JobState.ROLLING_BACK
            undone = next(other for other in record.effects if other.effect_id == effect.undoes)
            assert undone.state is EffectState.APPLIED
            assert self.world.written[undone.effect_key] == 1
            return
        assert effect.revision == job.revision
        assert job.state is JobState.APPLYING
        plans = {each.name: each for each in self.asked[str(job.review_digest)]}
        assert plans[effect.name].plan_digest == effect.plan_digest, "another plan than the one that was asked about"
        assert job.approval == "not required" or (job.revision, job.review_digest) in self.approved, "not approved"
        assert effect.plan == plans[effect.name].plan

    # What is so after every step.

    @invariant()
    def ledger_and_world_agree(self) -> None:
        if not self.ledger.jobs(limit=1):
            return
        record = self.record = self.read_record()
        self.check_history(record)
        self.check_effects(record)
        self.check_bills(record)
        self.check_inbox(record)

    def check_history(self, record: JobRecord) -> None:
        assert first_break(record.events, record.job) is None
        assert record.events[0].event == JobEvent.CREATED
        for before, line in pairwise(record.events):
            assert line.from_state == before.to_state
            assert JOB_TRANSITIONS[JobState(str(line.from_state)), JobEvent(line.event)] == line.to_state
        assert record.job.state == record.events[-1].to_state
        self.check_claims_of_cancelled(record.events)

    @staticmethod
    def check_claims_of_cancelled(lines: list[Event]) -> None:
        """From a cancellation on, nothing is claimed, until the job is started again or rolled back."""
        cancelled = False
        for line in lines:
            if line.event in (JobEvent.REVISED, JobEvent.ROLL_BACK_STARTED):
                cancelled = False
            in_between = line.event == JobEvent.CANCEL_REQUESTED and line.from_state == JobState.APPLYING
            if line.event == JobEvent.CANCELLED or in_between:
                cancelled = True
            assert not (cancelled and line.event == JobEvent.EFFECT_CLAIMED), "claimed for a cancelled job"

    def check_effects(self, record: JobRecord) -> None:
        by_key = {effect.effect_key: effect for effect in record.effects}
        undone = {effect.undoes for effect in record.effects if self.world.written[effect.effect_key]}
        standing: Counter[str] = Counter()
        for key, times in self.world.written.items():
            assert times <= 1, f"{key} was applied {times} times"
            if times:
                assert key in by_key, "something was written that the ledger does not know of"
                effect = by_key[key]
                assert effect.state in TOUCHED_EFFECT_STATES, f"something was written, and is {effect.state}"
                standing[effect.name] += effect.undoes is None and effect.effect_id not in undone
        assert all(times <= 1 for times in standing.values()), "two revisions are written at once"
        for effect in record.effects:
            if effect.state is EffectState.APPLIED:
                assert self.world.written[effect.effect_key] == 1, "applied, and nothing was written"
            if effect.state is EffectState.CLAIMED:
                assert effect.claim_token is not None
        current = {effect.state for effect in record.current_effects}
        if record.job.state is JobState.COMPLETED:
            assert current <= {EffectState.APPLIED}
        if record.job.state in (JobState.CANCELLED, JobState.ROLLED_BACK):
            assert current <= {EffectState.APPLIED, EffectState.VOID}
        if record.job.state is JobState.ROLLED_BACK:
            assert {undo.state for undo in record.undos} == {EffectState.APPLIED}

    def check_bills(self, record: JobRecord) -> None:
        created = Counter(response.revision for response in self.world.responses)
        for revision in record.revisions:
            number = created[revision.number]
            assert number <= 1 + MAX_UNKNOWN_SUBMISSIONS, "a revision was billed too often"
            assert number <= max(revision.submissions, 1), "a request was sent that the ledger does not count"
        running = [response for response in record.revisions if response.state == "running"]
        assert len(running) <= 1
        assert all(revision.number == record.job.revision for revision in running)

    def check_inbox(self, record: JobRecord) -> None:
        entries = {entry.webhook_id: entry for entry in self.ledger.inbox.entries()}
        assert {name: entry.deliveries for name, entry in entries.items()} == self.deliveries
        known = {revision.response_id for revision in record.revisions}
        for entry in entries.values():
            assert entry.disposition is not Disposition.QUARANTINED or entry.response_id not in known
        ended = [line.detail["response_id"] for line in record.events if line.event == JobEvent.RESPONSE_ENDED]
        assert len(ended) == len(set(ended)), "a response has ended twice"


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine replaces is put back afterwards."""
    monkeypatch.setattr(applying, "_clock", applying._clock)
    monkeypatch.setattr(applying, "time", applying.time)
    monkeypatch.setattr(submitting, "time", submitting.time)
    monkeypatch.setattr(roll_back, "undo_target", roll_back.undo_target)


@pytest.mark.timeout(60 + EXAMPLES * STEPS)
def test_whatever_happens_in_whatever_order_the_ledger_and_the_world_agree(
    conninfo: dict[str, Any], restored: None
) -> None:
    with (
        Ledger(conninfo, max_size=MAX_TASKS + 4) as ledger,
        psycopg.connect(**conninfo, autocommit=True) as connection,
    ):
        run_state_machine_as_test(
            cast("type[Machine]", lambda: Machine(ledger, connection)),  # any factory will do
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                suppress_health_check=list(HealthCheck),
            ),
        )
