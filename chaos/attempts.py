"""What one attempt of an Airflow task does with the ledger and outside systems, without Airflow's scheduler.

Each step does what the operator or sensor of the same kind does, on the real core and with the real targets:

- ``draft``: open or attach to the job, submit it, wait for the response, store its output.
- The steps of :data:`chaos.work.SET_PIPELINE`: the tasks of a set. :mod:`chaos.set_attempts` has them.
- ``draft batch``: the same as ``draft`` for a set with one item, with its request in a batch; ``stop batch``: which is
  stopped.
- ``plan``: render the effects and ask for a decision; ``decide``: a person approves what the ledger shows; ``expire``:
  no one has, in time; ``remind``: they are notified; ``edit``: a person changes the output, ``refuse``: and the
  output type does not accept it.
- The name of each effect, of :data:`chaos.work.ALL_EFFECTS`: apply it. They come one after the other.
  ``complete``: end a job that intends none. ``skip``: record that Airflow has skipped the task of the last effect.
- ``resolve``: a person says that a lost request is to be sent again. ``settle``: the reconciler cancels what no
  revision waits for.
- ``receive``: OpenAI's webhook about the job's response, alone; ``receive together``: in a batch. ``poll``: what the
  reconciler records of one that has ended.
- ``fund``: a person makes a budget for the work alone. ``reclaim``: what was reserved for a lost request comes back.
  ``warn``: people were notified of what is used of the budget.
- ``limit``: a person limits what is in flight of the work alone. ``unlimit``: they end that.
- ``cancel``: a person stops the job. ``rollback``: a person rolls back what it wrote.
- ``bulk cancel`` and so on: a person takes a bulk action on the job, or goes on with the one that they have begun.
- ``cancel``: a person stops the job. ``rollback``: a person rolls back what it wrote. ``acknowledge``: they have seen
  that it failed.
- ``request asked``: a login asks for a job; ``request enqueued``: another program does, in its own transaction;
  ``request cancelled``: a login cancels before there is a job.
- ``event subscribe``: someone subscribes to events; ``event deliver``: a deliverer has its turn; ``event replay``: what
  was given up is sent again; ``event unsubscribe``: they end it.
- ``notify``: two runs of the maintenance Dag notify people of a cause, and a third one that it is over.

:mod:`chaos.effects` says what the effects are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import psycopg
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.bulk.bulk_run import begin, preview
from airflow_provider_aihandoff.core.bulk.bulk_run import run as run_bulk
from airflow_provider_aihandoff.core.bulk.bulk_store import Bulk, BulkAction
from airflow_provider_aihandoff.core.effects.apply import Wait, apply_effect
from airflow_provider_aihandoff.core.effects.roll_back import roll_back
from airflow_provider_aihandoff.core.errors import (
    BudgetRefused,
    CannotCancel,
    CannotChange,
    EffectNotNow,
    EffectRefused,
    EffectUnknown,
    HandoffError,
    LimitNotFound,
    StaleDecision,
)
from airflow_provider_aihandoff.core.generation.handle import take_from_handle
from airflow_provider_aihandoff.core.generation.lost import LostWait, in_words, wait_of
from airflow_provider_aihandoff.core.generation.outcome import is_final, read_output
from airflow_provider_aihandoff.core.generation.provider import ModelProvider
from airflow_provider_aihandoff.core.generation.settle import read_ended
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.generation.submission_store import Opened
from airflow_provider_aihandoff.core.generation.submit import submit
from airflow_provider_aihandoff.core.generation.surplus import settle_surplus
from airflow_provider_aihandoff.core.jobs.attach import Attachment
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import RECONCILER, Actor, Effect, Job, JobSpec, Owner, Revision
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure
from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, Reviewers, ReviewRules
from airflow_provider_aihandoff.core.sets.batch_read import advance
from airflow_provider_aihandoff.core.sets.batch_send import BatchSender
from airflow_provider_aihandoff.core.sets.set_record import LeftOut
from airflow_provider_aihandoff.core.sets.set_store import SetSpec
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES, EffectState, JobState, RevisionState
from airflow_provider_aihandoff.core.webhooks.correlate import find_owner
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery, Receipt
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.operators.elements import all_failures, first_wait
from airflow_provider_aihandoff.operators.retries import final_errors
from chaos import events, requests
from chaos.effects import effect_plan, parts_of, plans, target_of
from chaos.set_attempts import SET_STEPS
from chaos.work import ALL_EFFECTS, Work
from chaos.world import OPENAI, World, connection_of

State = Literal["done", "wait", "retry", "held", "failed"]

#: The Dag that the attempts belong to, and the user who asks, decides, cancels and rolls back.
DAG_ID, PERSON, REQUESTER = "chaos", "alice", "bob"

#: Who takes bulk actions, and how many of theirs are searched.
OPERATOR = Actor.user("olga")
MAX_BULK_ACTIONS = 10_000
#: What bounds the cost of a response.
MAX_OUTPUT_TOKENS = 1000

#: Seconds between two polls of what others do, and from an attempt that failed to its retry.
POLL_SECONDS, RETRY_SECONDS = 0.1, 0.2

#: Seconds after which a bulk action is continued of which something is unfinished: a claim has to expire first.
BULK_SECONDS = 0.5
#: Seconds for which a run may be sending one notice.
SENDING_SECONDS = 1.0


@dataclass(frozen=True)
class Attempt:
    """One attempt of a task. Every field is JSON.

    :param step: one of :data:`STEPS`.
    :param number: which attempt it is, from 1.
    :param not_now: the same field of the outcome that it comes after.
    :param last_try: Airflow would not retry after it.
    """

    work: Work
    step: str
    number: int = 1
    not_now: int = 0
    last_try: bool = False

    @property
    def owner(self) -> Owner:
        """The attempt, as the ledger names it."""
        return Owner(DAG_ID, self.work.key, self.step, -1, f"ti-{self.work.key}-{self.step}", self.number)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, where it was not killed.

    :param state: ``done``; ``wait``: the task deferred, and goes on after ``seconds``; ``retry``: it failed, and
        Airflow retries it after ``seconds``; ``held``: it waits for a person; ``failed``: a retry cannot help, and a
        person must fix something and clear it.
    :param why: as text.
    :param not_now: to hand to the next attempt.
    """

    state: State
    seconds: float = 0.0
    why: str = ""
    not_now: int = 0


DONE = Outcome("done")

Step = Callable[[World, Ledger, Attempt], Outcome]


def run(world: World, attempt: Attempt) -> Outcome:
    """Make one attempt, on a ledger of its own. The process lives in the world already (:meth:`World.use`)."""
    world.connect(attempt.work)
    with Ledger(world.ledger) as ledger:
        try:
            with final_errors():
                return STEPS[attempt.step](world, ledger, attempt)
        except AirflowFailException as error:
            return Outcome("failed", why=str(error))
        except Exception as error:  # noqa: BLE001 - Airflow retries a task whatever it raised
            return Outcome("retry", RETRY_SECONDS, f"{type(error).__name__}: {error}")


def jobs_of(ledger: Ledger, work: Work) -> list[Job]:
    """The jobs of a run: of a set, as many as it has items."""
    return ledger.jobs(dag_id=DAG_ID, run_id=work.key, limit=max(work.items, 1))


def job_of(ledger: Ledger, work: Work) -> Job:
    """The job of a run.

    :raises LookupError: its draft has not made one yet.
    """
    found = ledger.jobs(dag_id=DAG_ID, run_id=work.key, limit=1)
    if not found:
        raise LookupError(f"the run {work.key} has made no job yet")
    return found[0]


# The draft, as operators/response.py does it.


def _draft(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    spec = _spec(attempt)
    return _send_and_finish(world, ledger, attempt, spec, ledger.submission.open(spec))


def _draft_batch(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """The same as a set with one item, with its request in a batch."""
    set_spec = SetSpec("chaos", attempt.work.key, REQUESTER, attempt.owner, timedelta(hours=1))
    found = ledger.sets.open(set_spec, LeftOut())
    spec, actor = replace(_spec(attempt), set_id=found.set_id), attempt.owner.actor
    (opened,) = ledger.submission.open_many([spec])
    if isinstance(opened, HandoffError):
        raise opened
    job_id = opened.job.job_id
    with providers() as provider_for:
        provider = provider_for(spec.conn_id)
        for batch in ledger.batches.open_of_set(found.set_id):
            advance(ledger, provider, batch, output_type=None, actor=actor)
        job = ledger.job(job_id)
        revision = ledger.revision(job_id, job.revision)
        if job.state is JobState.QUEUED and revision.may_be_in_batch:
            price, conn_id = provider.worst_case, spec.conn_id
            with BatchSender(ledger, provider, found.set_id, conn_id, actor, price, lambda outcome: None) as sender:
                sender.add(job, revision, spec.request)
        if ledger.batches.open_of_set(found.set_id) or ledger.job(job_id).state is JobState.QUEUED:
            return Outcome("wait", world.poll, "the batch runs")
        return _finish(ledger, provider, job_id, actor)


def _stop_batch(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """The batch of the work would be too late."""
    job = job_of(ledger, attempt.work)
    with providers() as provider_for:
        for batch in ledger.batches.open_of_set(job.set_id or 0):
            provider = provider_for(batch.conn_id)
            after = advance(ledger, provider, batch, output_type=None, actor=RECONCILER, stop="It is late.")
            if not after.is_over:
                return Outcome("wait", world.poll, "the batch is being stopped")
    return DONE


def _send_and_finish(world: World, ledger: Ledger, attempt: Attempt, spec: JobSpec, opened: Opened) -> Outcome:
    job, revision, actor = opened.job, opened.revision, attempt.owner.actor
    with providers() as provider_for:
        provider = provider_for(revision.conn_id)
        if opened.next is Attachment.SUBMIT:
            revision = submit(
                ledger,
                provider,
                job,
                actor=actor,
                request=spec.request,
                orphan_wait=timedelta(seconds=world.orphan_wait),
            )
        if revision.state is RevisionState.SUBMITTING and not take_from_handle(
            ledger, provider, revision, output_type=None, actor=actor
        ):
            state: State = "held" if wait_of(revision) is LostWait.ASKS else "wait"
            return Outcome(state, world.poll, in_words(revision) or "another attempt is sending")
        if _runs(provider, revision):
            return Outcome("wait", world.poll, "the response runs")
        return _finish(ledger, provider, job.job_id, actor)


def _spec(attempt: Attempt) -> JobSpec:
    request = {
        "model": "gpt-5.2",
        "input": f"Write the note {attempt.work.key}.",
        "metadata": {"standin": attempt.work.model},
        "max_output_tokens": MAX_OUTPUT_TOKENS,
    }
    return JobSpec(
        job_type="chaos",
        job_key=attempt.work.key,
        input={name: request[name] for name in ("model", "input")},
        request=request,
        conn_id=connection_of(attempt.work),
        requested_by=REQUESTER,
        permissions={},
        approval="required",
        approval_reason=None,
        max_revisions=3,
        deadline=datetime.now(UTC) + timedelta(seconds=attempt.work.deadline_seconds),
        owner=attempt.owner,
        on_lost=attempt.work.on_lost,
        tags=(attempt.work.key,),
        rate_key=attempt.work.key,
    )


def _runs(provider: ModelProvider, revision: Revision) -> bool:
    """Whether the response has to be waited for, as the ledger knows, or else OpenAI."""
    if revision.state is not RevisionState.RUNNING or revision.response_id is None:
        return False
    if revision.response_status in ENDED_RESPONSE_STATUSES:
        return False
    return not provider.retrieve(revision.response_id).ended


def _finish(ledger: Ledger, provider: ModelProvider, job_id: int, actor: Actor) -> Outcome:
    job = ledger.job(job_id)
    revision = ledger.revision(job_id, job.revision)
    while job.state is JobState.RUNNING and (response_id := revision.response_id) is not None:
        response = read_ended(provider, response_id)
        output, why = read_output(response, None, provider.price(response, revision.request))
        job = ledger.outputs.store(
            job_id, revision.number, output, actor=actor, reason=why or None, response_id=response_id
        )
        revision = ledger.revision(job_id, revision.number)
    if job.state is JobState.CANCELLED:
        return Outcome("failed", why=f"{job.label} was cancelled")
    if job.state is JobState.FAILED and (is_final(revision.error or {}) or revision.number >= job.max_revisions):
        return Outcome("failed", why=f"{job.label}: {job.state_reason}")
    if job.state in (JobState.FAILED, JobState.QUEUED):
        return Outcome("retry", RETRY_SECONDS, f"{job.label}: {job.state_reason}")
    return DONE


# The decision, as sensors/approval.py and the review page do it.


def _plan(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    job = job_of(ledger, attempt.work)
    deadline = datetime.now(UTC) + timedelta(seconds=attempt.work.review_seconds)
    asked = ledger.reviews.ask(
        job.job_id,
        plans(world, attempt.work),
        policy=None,
        deadline=deadline,
        actor=attempt.owner.actor,
        rules=ReviewRules(remind_after=0.0 if attempt.work.remind else None),
        on_timeout="fail",
    )
    return _if_going_on(asked)


def _decide(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    job = job_of(ledger, attempt.work)
    if job.review_digest is None:
        return _if_going_on(job, "its plan is not rendered yet")
    try:
        job = ledger.reviews.decide(job.job_id, "approve", digest=job.review_digest, person=Person(PERSON))
    except StaleDecision as error:
        return _if_going_on(ledger.job(job.job_id), str(error))
    return DONE


def _expire(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    job = job_of(ledger, attempt.work)
    assert job.review_digest is not None
    job = ledger.reviews.expire(job.job_id, digest=job.review_digest, fail=True)
    return Outcome("wait", POLL_SECONDS, "there is time to decide") if job.state is JobState.REVIEW else DONE


def _remind(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    job = job_of(ledger, attempt.work)
    ledger.reviews.notify(job.job_id, digest=str(job.review_digest), actor=attempt.owner.actor)
    return DONE


def _edit(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    job = job_of(ledger, attempt.work)
    with suppress(CannotChange):  # another attempt has edited it, and the plan of that is rendered
        ledger.reviews.edit(job.job_id, digest=str(job.review_digest), output="Edited.", person=Person(PERSON))
    return DONE


def _refuse(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    job = job_of(ledger, attempt.work)
    number = max(revision.number for revision in ledger.record(job.job_id).revisions)
    ledger.reviews.refuse_edit(
        job.job_id, number, error={"kind": "mismatch"}, reason="too short", actor=attempt.owner.actor
    )
    return DONE


def _if_going_on(job: Job, wait_for: str = "") -> Outcome:
    """Whether a job still comes to its effects."""
    if job.state in (JobState.CANCELLED, JobState.FAILED, JobState.REJECTED):
        return Outcome("failed", why=f"{job.label} is {job.state.value}")
    return Outcome("retry", RETRY_SECONDS, wait_for) if wait_for else DONE


# The effects, as operators/side_effect.py does it.


def _apply(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """One effect; or one for each element, of which none stops the others."""
    parts = parts_of(attempt.step)
    done = [_apply_part(world, ledger, attempt, part, alone=len(parts) == 1) for part in parts]
    if waits := [each for each in done if isinstance(each, Wait)]:
        return _waits(first_wait(waits))
    if failures := [each for each in done if isinstance(each, HandoffError)]:
        raise all_failures(attempt.step, failures, len(parts))
    return DONE


def _apply_part(
    world: World, ledger: Ledger, attempt: Attempt, part: str, *, alone: bool
) -> Effect | Wait | HandoffError:
    try:
        return apply_effect(
            ledger,
            job_of(ledger, attempt.work).job_id,
            effect_plan(world, attempt.work, part),
            target_of(world, attempt.work, part),
            actor=attempt.owner.actor,
            not_now=attempt.not_now,
            last_try=attempt.last_try,
        )
    except (EffectRefused, EffectNotNow, EffectUnknown) as error:
        if alone:
            raise
        return error


def _complete(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    ledger.effects.complete_without_effects(job_of(ledger, attempt.work).job_id, actor=attempt.owner.actor)
    return DONE


def _skip(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """Airflow has skipped the task of the last effect, and another task of the run records it."""
    last = ledger.record(job_of(ledger, attempt.work).job_id).current_effects[-1]
    ledger.effects.skip(last.effect_id, actor=attempt.owner.actor, reason="its task was skipped")
    return DONE


def _waits(wait: Wait) -> Outcome:
    if wait.seconds is None:
        return Outcome("held", why=wait.why)
    return Outcome("wait", wait.seconds, wait.why, wait.not_now)


def _rollback(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    job = job_of(ledger, attempt.work)
    effects = ledger.record(job.job_id).current_effects
    done = roll_back(
        ledger,
        job.job_id,
        actor=attempt.owner.actor,
        reason="it was wrong",
        # What had no known writer when it was found done, a person leaves as it is.
        leave=[effect.name for effect in effects if effect.state is EffectState.APPLIED and effect.own is False],
        not_now=attempt.not_now,
        last_try=attempt.last_try,
        in_worker=True,
    )
    return _waits(done) if isinstance(done, Wait) else DONE


# What others do: a person, OpenAI's webhooks, the reconciler.


def _cancel(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    job = job_of(ledger, attempt.work)
    with providers() as provider_for:
        try:
            cancel_job(ledger, provider_for, job.job_id, actor=Actor.user(PERSON), reason="it is no longer wanted")
        except CannotCancel as error:
            return Outcome("done", why=str(error))
    return DONE


def _acknowledge(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    job = job_of(ledger, attempt.work)
    ledger.acknowledgements.acknowledge(
        job.job_id, revision=job.revision, actor=Actor.user(PERSON), reason="nothing is left to do"
    )
    return DONE


def _notify(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """As operators/fleet_notices.py does it, with the job as the cause."""
    dag_id, task_id = DAG_ID, f"notify-{attempt.work.key}"
    for run_id, causes in (("first", ["failed jobs"]), ("second", ["failed jobs"]), ("third", [])):
        for notice in ledger.notices.find(dag_id, task_id, run_id, causes):
            claim = ledger.notices.claim(dag_id, task_id, notice, sending=timedelta(seconds=SENDING_SECONDS))
            if claim is None:
                return Outcome("wait", POLL_SECONDS, "another run may be sending")
            ledger.notices.sent(claim, sent=True)
    return DONE


def _poll(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    job = job_of(ledger, attempt.work)
    revision = ledger.revision(job.job_id, job.revision)
    if revision.response_id is None:
        return Outcome("wait", POLL_SECONDS, "its response is not known")
    with providers() as provider_for:
        response = provider_for(OPENAI).retrieve(revision.response_id)
    if not response.ended:
        return Outcome("wait", POLL_SECONDS, "the response runs")
    ledger.outputs.ended(job.job_id, revision.number, status=response.status, actor=Actor.program("reconciler"))
    return DONE


def _resolve(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """A person says that a lost request is to be sent again."""
    revision = ledger.record(job_of(ledger, attempt.work).job_id).revision
    if not revision.is_lost:
        return DONE
    ledger.submission.resolve(
        revision.job_id,
        send_again=True,
        seen=revision.unknown_submissions,
        actor=Actor.user(PERSON),
        why="nothing in the logs",
    )
    return DONE


def _settle(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """The reconciler cancels what no revision waits for."""
    with providers() as provider_for:
        for surplus in ledger.surplus.of_job(job_of(ledger, attempt.work).job_id):
            settle_surplus(ledger, provider_for(surplus.conn_id), surplus, actor=RECONCILER)
    return DONE


def _receive(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """Deliver the webhook of each response that was made for the job, and poll those that no job knows."""
    return _deliver(world, ledger, attempt, lambda deliveries: map(ledger.inbox.receive, deliveries))


def _receive_together(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """The same, in a batch."""
    return _deliver(world, ledger, attempt, lambda deliveries: receive_together(ledger, deliveries))


def _deliver(
    world: World, ledger: Ledger, attempt: Attempt, receive: Callable[[list[Delivery]], Iterable[Receipt]]
) -> Outcome:
    responses = _responses(world, job_of(ledger, attempt.work))
    if any(response["status"] not in ENDED_RESPONSE_STATUSES for response in responses):
        return Outcome("wait", POLL_SECONDS, "a response runs")
    with providers() as provider_for:
        for receipt in receive([webhook(response) for response in responses]):
            find_owner(ledger, receipt.entry.webhook_id, provider_for(OPENAI))
    return DONE


def receive_together(ledger: Ledger, deliveries: Sequence[Delivery]) -> list[Receipt]:
    """Record deliveries in a batch, and those alone that it leaves, as the receiver of webhooks does."""
    receipts = ledger.inbox_batches.receive(deliveries)
    return [receipt or ledger.inbox.receive(delivery) for delivery, receipt in zip(deliveries, receipts, strict=True)]


def _responses(world: World, job: Job) -> list[Mapping[str, Any]]:
    """What the stand-in has made for a job."""
    import requests

    report = requests.get(f"{world.openai_url.removesuffix('/v1')}/standin/responses", timeout=10).json()
    made = [entry["response"] for entry in report["responses"]]
    return [response for response in made if response["metadata"].get("aihandoff_job") == str(job.job_id)]


def webhook(response: Mapping[str, Any]) -> Delivery:
    """The webhook about a response that has ended."""
    kind = f"response.{response['status']}"
    body = {"object": "event", "id": f"evt_{response['id']}", "type": kind, "data": {"id": response["id"]}}
    return Delivery(f"wh_{response['id']}", OPENAI, kind, response["id"], body)


# Its budget, as a person makes it and the maintenance Dag clears it up.


def _fund(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """A person makes a budget for this work alone."""
    scope = {"tag": attempt.work.key}
    spec = checked_spec(attempt.work.key, 1, scope=scope, period="total", thresholds=[1], owner=PERSON)
    with suppress(BudgetRefused):  # another attempt has made it
        ledger.budgets.add(spec, why="to be safe", actor=Actor.user(PERSON))
    return DONE


def _warn(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """The maintenance Dag has notified people of a threshold."""
    for reached in ledger.budgets.reached():
        if reached.view.budget.name == attempt.work.key:
            ledger.budgets.notified(reached)
    return DONE


def _reclaim(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """A week later, what was reserved for a lost request is given back."""
    with psycopg.connect(**world.ledger) as connection:
        connection.execute(_A_WEEK_LATER, [job_of(ledger, attempt.work).job_id])
    ledger.reservations.expire()
    return DONE


def _limit(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """A person sets a limit of speed for this work alone."""
    person, key = Actor.user(PERSON), attempt.work.key
    ledger.rate_limits.set(LimitKind.KEY, key, Measure.IN_FLIGHT, 1, reason="to be safe", actor=person)
    return DONE


def _unlimit(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """They end it."""
    person, key = Actor.user(PERSON), attempt.work.key
    with suppress(LimitNotFound):  # another attempt has ended it
        ledger.rate_limits.end(LimitKind.KEY, key, Measure.IN_FLIGHT, reason="it is safe", actor=person)
    return DONE


#: The ways of a request for a job.
REQUESTING: Mapping[str, Callable[[World, Ledger, str], bool]] = {
    "asked": requests.ask,
    "enqueued": requests.ask_in_a_transaction,
    "cancelled": requests.cancel,
}


#: The ways of a subscription to events.
SUBSCRIBING: Mapping[str, Callable[[World, Ledger, str], bool]] = {
    "subscribe": events.subscribe,
    "deliver": events.deliver,
    "replay": events.replay,
    "unsubscribe": events.unsubscribe,
}


def _until(done: Callable[[World, Ledger, str], bool]) -> Step:
    """Something is done that another attempt may be doing: tried until it is."""

    def step(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
        return DONE if done(world, ledger, attempt.work.key) else Outcome("wait", POLL_SECONDS, "another one does it")

    return step


_A_WEEK_LATER = """
    UPDATE aihandoff.budget_reservations SET expires_at = clock_timestamp() - interval '1 second'
    WHERE job_id = %s AND state = 'reserved'"""


def _in_bulk(action: BulkAction, reviewers: Reviewers | None = None) -> Step:
    """A bulk action on the job of the work, with who may decide then, where it reassigns."""

    def step(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
        begun = bulk_actions_of(ledger, attempt.work, action)
        bulk_id = begun[0].bulk_id if begun else _begin_in_bulk(ledger, attempt.work, action, reviewers)
        with providers() as provider_for:
            progress = run_bulk(
                ledger,
                bulk_id,
                provider_for=provider_for,
                states_of=lambda owners: dict.fromkeys(owners, TaskState.ENDED),
                answerable=list,
            )
        if progress.is_over:
            return DONE
        records = [ledger.record(job.job_id) for job in jobs_of(ledger, attempt.work)]
        unknown = any(effect.state is EffectState.UNKNOWN for record in records for effect in record.effects)
        return Outcome("held" if unknown else "wait", BULK_SECONDS, "the bulk action is unfinished")

    return step


def _begin_in_bulk(ledger: Ledger, work: Work, action: BulkAction, reviewers: Reviewers | None) -> int:
    shown = preview(ledger, action, _of_work(work), answerable=list, actor=OPERATOR, reviewers=reviewers)
    return begin(ledger, shown, count=shown.count, digest=shown.digest, reason="it was wrong", actor=OPERATOR)


def bulk_actions_of(ledger: Ledger, work: Work, action: BulkAction | None = None) -> list[Bulk]:
    """The bulk actions that were taken on the job of a piece of work, the newest first.

    :param action: only this one.
    """
    wanted = _of_work(work).as_texts()
    found = (bulk for bulk in ledger.bulks.newest(OPERATOR, MAX_BULK_ACTIONS) if bulk.wanted == wanted)
    return [bulk for bulk in found if action in (None, bulk.action)]


def _of_work(work: Work) -> JobFilter:
    return JobFilter(run_id=work.key, dag_id=DAG_ID)


STEPS: Mapping[str, Step] = {
    "draft": _draft,
    **SET_STEPS,
    "draft batch": _draft_batch,
    "stop batch": _stop_batch,
    "plan": _plan,
    "decide": _decide,
    "expire": _expire,
    "remind": _remind,
    "edit": _edit,
    "refuse": _refuse,
    "complete": _complete,
    "skip": _skip,
    **dict.fromkeys(ALL_EFFECTS, _apply),
    "cancel": _cancel,
    "acknowledge": _acknowledge,
    "notify": _notify,
    "rollback": _rollback,
    "receive": _receive,
    "receive together": _receive_together,
    "resolve": _resolve,
    "settle": _settle,
    "poll": _poll,
    "bulk cancel": _in_bulk(BulkAction.CANCEL),
    "bulk roll back": _in_bulk(BulkAction.ROLL_BACK),
    "bulk resolve applied": _in_bulk(BulkAction.RESOLVE_APPLIED),
    "bulk resolve not applied": _in_bulk(BulkAction.RESOLVE_NOT_APPLIED),
    "bulk reconcile": _in_bulk(BulkAction.RECONCILE),
    "bulk reassign": _in_bulk(BulkAction.REASSIGN, Reviewers(Approvers(users=(PERSON, "carol")))),
    "fund": _fund,
    "reclaim": _reclaim,
    "warn": _warn,
    "limit": _limit,
    "unlimit": _unlimit,
    **{f"request {how}": _until(step) for how, step in REQUESTING.items()},
    **{f"event {how}": _until(step) for how, step in SUBSCRIBING.items()},
}
