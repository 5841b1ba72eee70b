"""Courses that a piece of work can take, each attempt of it in a process of its own, one of them struck at a point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import JobState
from chaos.attempts import Attempt, Outcome
from chaos.drive import Search, drive
from chaos.effects import parts_of
from chaos.forks import Child, Fault, Forks
from chaos.work import EFFECTS, PIPELINE, SET_EFFECTS, SET_PIPELINE, Work


@dataclass
class Run:
    """One piece of work on its way to its end, as Airflow would take it there.

    :param fault: what the first attempt does to itself that reaches the point.
    :param at: the step whose attempts it may be; by default, whichever comes first.
    """

    forks: Forks
    ledger: Ledger
    search: Search
    work: Work
    fault: Fault
    at: str | None = None
    struck: Child | None = field(default=None, init=False)

    def drive(self, *steps: str) -> None:
        """Drive steps to their ends. What failed for good is fixed, and cleared once.

        An attempt that is paused goes on when its step is done.
        """
        for step in steps:
            if self._drive(step).state == "failed":
                self._drive(step)

    def begin(self, step: str) -> None:
        """Make one attempt of a step that has to wait for something."""
        outcome = self._attempt(Attempt(self.work, step))
        assert outcome is not None
        assert outcome.state in ("wait", "held"), outcome

    def attempt(self, step: str) -> None:
        """Make one attempt of a step, whatever becomes of it."""
        self._attempt(Attempt(self.work, step))

    def _drive(self, step: str) -> Outcome:
        outcome = drive(self.ledger, self.work, step, attempt=self._attempt, search=self.search).outcome
        if self.struck is not None and self.struck.stopped:
            self.struck.resume()
            self.struck.wait()
        return outcome

    def _attempt(self, attempt: Attempt) -> Outcome | None:
        if self.struck is not None or self.at not in (None, attempt.step):
            return self.forks.start(attempt).wait()
        child = self.forks.start(attempt, self.fault)
        if self.fault.do == "stop":
            child.wait_until_stopped()
        outcome = child.outcome if child.stopped else child.wait()
        self.struck = child if child.struck else None
        return outcome


@dataclass(frozen=True)
class Course:
    """A way that a piece of work can go.

    :param go: takes it there.
    :param ends: the state in which its job ends.
    :param work: what it is, but for its key.
    :param skips: its last effect, which inserts a row, is skipped.
    """

    go: Callable[[Run], None]
    ends: JobState
    work: Work
    skips: bool = False

    @property
    def writes(self) -> tuple[int, int, int, int]:
        """The external writes that it leaves: created, removed, inserted, undone."""
        if self.ends not in (JobState.COMPLETED, JobState.ROLLED_BACK):
            return 0, 0, 0, 0
        effects = [name for name in self.work.effects if not (self.skips and name == "store")]
        created = sum(len(parts_of(name)) for name in effects if name not in ("store", "retire"))
        removed, inserted = effects.count("retire"), effects.count("store")
        if self.ends is JobState.COMPLETED:
            return created * self.work.items, removed, inserted, 0
        return created + removed, created + removed, inserted, inserted


def _completed(run: Run) -> None:
    run.drive(*run.work.pipeline)


def _seen_by_others(run: Run) -> None:
    """The reconciler sees before the draft's task that the response has ended."""
    run.begin("draft")
    run.drive("poll", *PIPELINE)


def _told(run: Run) -> None:
    """OpenAI's webhook says that the response has ended."""
    run.begin("draft")
    run.drive("receive", *PIPELINE)


def _told_in_a_batch(run: Run) -> None:
    run.begin("draft")
    run.drive("receive together", *PIPELINE)


def _told_of_an_orphan(run: Run) -> None:
    run.drive("draft", "receive", *PIPELINE)


def _expired(run: Run) -> None:
    run.drive("draft", "plan", "expire")


def _reminded(run: Run) -> None:
    run.drive("draft", "plan", "remind", "decide", *EFFECTS)


def _edited(run: Run) -> None:
    run.drive("draft", "plan", "edit", "plan", "decide", *EFFECTS)


def _edited_in_vain(run: Run) -> None:
    run.drive("draft", "plan", "edit", "refuse", "plan", "decide", *EFFECTS)


def _completed_without_effects(run: Run) -> None:
    run.drive("draft", "plan", "decide", "complete")


def _funded(run: Run) -> None:
    run.drive("fund", *PIPELINE)


def _reclaimed(run: Run) -> None:
    """A request was lost, and what was reserved for it comes back a week later."""
    run.drive("fund", "draft", "reclaim", *PIPELINE)


def _warned(run: Run) -> None:
    """A threshold of its budget is reached by what was reserved for a lost request."""
    run.drive("fund", "draft", "warn", *PIPELINE)


def _limited(run: Run) -> None:
    run.drive("limit", *PIPELINE, "unlimit")


def _in_a_set(run: Run) -> None:
    run.drive(*SET_PIPELINE)


def _in_a_batch(run: Run) -> None:
    run.drive("draft batch", "plan", "decide", *EFFECTS)


def _stopped_in_a_batch(run: Run) -> None:
    """The batch is stopped before it has run the request, which then goes into another one."""
    run.begin("draft batch")
    run.drive("stop batch", "draft batch", "plan", "decide", *EFFECTS)


def _asked_for(run: Run) -> None:
    """A login asks for a job, and the run of its request is made."""
    run.drive("request asked", *PIPELINE)


def _enqueued(run: Run) -> None:
    """Another program asks in its own transaction, and an API server has its turn."""
    run.drive("request enqueued", *PIPELINE)


def _request_cancelled(run: Run) -> None:
    run.drive("request cancelled", *PIPELINE)


def _told_to_a_subscriber(run: Run) -> None:
    """Someone has subscribed to events, and hears of each change of the job."""
    run.drive("event subscribe", *PIPELINE, "event deliver", "event replay", "event unsubscribe")


def _skipped(run: Run) -> None:
    run.drive("draft", "plan", "decide", "skip", "create", "label")


def _cancelled(run: Run) -> None:
    run.begin("draft")
    run.drive("cancel", "draft")


def _acknowledged(run: Run) -> None:
    run.drive("draft", "plan", "expire", "acknowledge")


def _notified(run: Run) -> None:
    run.drive("notify", *PIPELINE)


def _rolled_back(run: Run) -> None:
    run.drive(*run.work.pipeline, "rollback")


def _cancelled_in_bulk(run: Run) -> None:
    run.begin("draft")
    run.drive("bulk cancel", "draft")


def _rolled_back_in_bulk(run: Run) -> None:
    run.drive(*run.work.pipeline, "bulk roll back")


def _reassigned_in_bulk(run: Run) -> None:
    run.drive("draft", "plan", "bulk reassign", "decide", *EFFECTS)


def _found_applied_in_bulk(run: Run) -> None:
    """The first write is made, and its answer is lost; no probe tells."""
    run.drive("draft", "plan", "decide")
    run.begin("create")
    run.drive("bulk resolve applied", *EFFECTS)


def _found_missing_in_bulk(run: Run) -> None:
    """A gateway answers in the place of the target, which has not made the first write."""
    run.drive("draft", "plan", "decide")
    run.begin("create")
    run.drive("bulk resolve not applied", *EFFECTS)


def _reconciled_in_bulk(run: Run) -> None:
    """The time to decide has ended two minutes ago, and no task of the review is alive."""
    run.drive("draft", "plan", "bulk reconcile")


def of(go: Callable[[Run], None], ends: JobState = JobState.COMPLETED, **work: Any) -> Course:
    """A course, with what is special about its work. By default a lost request is sent again at once."""
    return Course(go, ends, replace(Work("", on_lost="resend"), **work))


#: The response still runs when the attempt that has asked for it polls it.
_SLOW = "delay=4"
#: The answer with the first response's id is lost, and another response is asked for.
_ORPHAN = "delay=0.1 create=drop_after_accept"

#: The answer is lost while the response runs for a while: what the provider's handle, or a webhook, is asked for.
_LOST = "delay=2 create=drop_after_accept"
#: The same, of a response that runs for longer than an attempt that asks for another one.
_REPLACED = "delay=6 create=drop_after_accept"


def _resolved(run: Run) -> None:
    """A person says that a lost request is to be sent again. That one is lost too, and they say so again."""
    run.begin("draft")
    run.drive("resolve", *PIPELINE)


def _replaced(run: Run) -> None:
    """The response whose id was lost ends before the one that was asked for after it."""
    run.begin("draft")
    run.drive("receive", "settle", *PIPELINE)


def _found_by_its_webhook(run: Run) -> None:
    """An attempt to send is struck, and OpenAI's webhook tells of the response, if there is one."""
    run.attempt("draft")
    run.drive("receive", *PIPELINE)


#: Ways to be paid once however long the model thinks: longer than a lease here. Without a response, the first revision
#: of the one that waits for its webhook ends with its deadline.
PAID_ONCE = {
    "handle": of(_completed, model="delay=4.5", handle=True),
    "webhooks": of(_found_by_its_webhook, model="delay=3", on_lost="wait", deadline_seconds=20.0),
}

_USUAL = of(_completed)
_CANCELLED = of(_cancelled, JobState.CANCELLED, model="stuck=in_progress")
ROLLED_BACK = of(_rolled_back, JobState.ROLLED_BACK)

#: Every bulk action, by the step that takes it.
IN_BULK: Mapping[str, Course] = {
    "bulk cancel": of(_cancelled_in_bulk, JobState.CANCELLED, model="stuck=in_progress"),
    "bulk roll back": of(_rolled_back_in_bulk, JobState.ROLLED_BACK),
    "bulk reassign": of(_reassigned_in_bulk),
    "bulk resolve applied": of(_found_applied_in_bulk, variant="neither", target="drop"),
    "bulk resolve not applied": of(_found_missing_in_bulk, variant="neither", target="outage"),
    "bulk reconcile": of(_reconciled_in_bulk, JobState.FAILED, review_seconds=-120),
}

#: A set of one job, and one of some, which are sent and written at the same time.
SET = of(_in_a_set, effects=SET_EFFECTS)
SOME = of(_in_a_set, effects=SET_EFFECTS, items=6)

#: How work comes by each step and each call of the protocols.
COURSES: Mapping[str, Course] = {
    "submit.open": _USUAL,
    "submit.intend": _USUAL,
    "submit.create": _USUAL,
    "submit.store": _USUAL,
    "submit.open handle": of(_completed, handle=True),
    "submit.handle": of(_completed, model=_LOST, handle=True),
    "submit.refused": of(_completed, model="delay=0.1 create=429"),
    "submit.resolve": of(_resolved, model=f"{_ORPHAN} times=2", on_lost="ask"),
    "surplus.settle": of(_replaced, model=_REPLACED),
    "submit.lost": of(_completed, model=_ORPHAN),
    "wait.retrieve": _USUAL,
    "wait.ended": of(_seen_by_others, model=_SLOW),
    "wait.cancel": _CANCELLED,
    "receive.insert": of(_told, model=_SLOW),
    "receive.batch": of(_told_in_a_batch, model=_SLOW),
    "receive.correlate": of(_told_of_an_orphan, model=_ORPHAN),
    "receive.retrieve": of(_told_of_an_orphan, model=_ORPHAN),
    "receive.adopt": of(_told_of_an_orphan, model=_ORPHAN),
    "receive.polled": of(_told_of_an_orphan, model=f"{_ORPHAN} retrieve=404"),
    "output.store": _USUAL,
    "review.ask": _USUAL,
    "review.decide": _USUAL,
    "review.edit": of(_edited),
    "review.refuse edit": of(_edited_in_vain),
    "review.notify": of(_reminded, remind=True),
    "review.expire": of(_expired, JobState.FAILED, review_seconds=1),
    "apply.claim": _USUAL,
    "apply.send": _USUAL,
    "apply.confirm": _USUAL,
    "apply.release": of(_completed, target="busy"),
    "apply.refuse": of(_completed, target="refuse"),
    "apply.lose": of(_completed, target="error"),
    "apply.complete": of(_completed_without_effects, effects=()),
    "apply.resolve": of(_completed, variant="probed", target="error"),
    "probe.send": of(_completed, variant="probed", target="drop"),
    "apply.skip": replace(of(_skipped), skips=True),
    "cancel.request": _CANCELLED,
    "cancel.record": _CANCELLED,
    "acknowledge.record": of(_acknowledged, JobState.FAILED, review_seconds=1),
    **dict.fromkeys(("notice.find", "notice.claim", "notice.sent"), of(_notified)),
    "undo.start": ROLLED_BACK,
    "review.reassign": IN_BULK["bulk reassign"],
    "bulk.begin": IN_BULK["bulk cancel"],
    "bulk.record": IN_BULK["bulk cancel"],
    **dict.fromkeys(
        (
            "set.open",
            "set.open jobs",
            "set.opened",
            "set.intend",
            "set.submitted",
            "set.ended",
            "set.store",
            "set.ask",
            "set.notify",
            "set.claim",
            "set.confirm",
        ),
        SET,
    ),
    **dict.fromkeys(
        (
            *("batch.open", "batch.intend", "batch.upload", "batch.uploaded", "batch.create", "batch.created"),
            *("batch.run", "batch.ended", "batch.results", "batch.take", "batch.read"),
        ),
        of(_in_a_batch, model="batch_delay=0.5"),
    ),
    **dict.fromkeys(("batch.abandon", "batch.free"), of(_in_a_batch, model="batch_delay=0.5 batch=500")),
    "batch.list": of(_in_a_batch, model="batch_delay=0.5 batch=drop_after_accept"),
    "batch.rest": of(_in_a_batch, model="batch_delay=0.5 batch_end=expired"),
    **dict.fromkeys(("batch.cancel", "batch.stop"), of(_stopped_in_a_batch, model="batch_delay=8")),
    **dict.fromkeys(("request.record", "request.started", "request.make run"), of(_asked_for)),
    "request.claim": of(_enqueued),
    "request.ended": of(_request_cancelled),
    **dict.fromkeys(
        ("event.subscribe", "event.take", "event.send", "event.record", "event.end", "event.replay", "event.remove"),
        of(_told_to_a_subscriber),
    ),
    "budget.change": of(_funded),
    "limit.change": of(_limited),
    "budget.expire": of(_reclaimed, model=_ORPHAN),
    "budget.notify": of(_warned, model=_ORPHAN),
}
