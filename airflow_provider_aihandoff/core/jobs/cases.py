"""Every case in which a job can be, in words: pages, commands, REST, task logs and the docs all take them from here.

A text names facts of the job in braces: :mod:`.explanation` fills them in, `docs/generate_cases.py` names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from airflow_provider_aihandoff.core.generation.lost import SAID, WAITS, LostWait


class Safety(StrEnum):
    """Whether a retry or a clear of a task of the job is safe. It begins the sentence on what it would do."""

    SAFE = "A retry or a clear is safe"  # nothing is paid or written twice
    PAID = "A retry or a clear is safe, and costs"  # a new response, which is paid
    REFUSED = "A retry or a clear is safe, and is refused"  # it changes nothing
    CHECK = "Before a retry or a clear, check"  # it may pay for something that may exist


@dataclass(frozen=True)
class Step:
    """Something that a person can do about a job.

    :param goal: what for, as the beginning of a sentence.
    :param buttons: on the page of the job.
    :param command: at a terminal.
    """

    goal: str
    buttons: tuple[str, ...] = ()
    command: str | None = None

    def __str__(self) -> str:
        quoted = [f'"{button}"' for button in self.buttons]
        buttons = " or ".join(filter(None, (", ".join(quoted[:-1]), *quoted[-1:])))
        ways = [f"{buttons} on the job's page"] if buttons else []
        ways += [f"`{self.command}`"] if self.command else []
        return f"{self.goal}: {', or '.join(ways)}." if ways else f"{self.goal}."


@dataclass(frozen=True)
class Words:
    """What is said of a job in one case.

    :param now: what is going on, since when, and what is waited for.
    :param then: what happens next by itself, and when.
    :param safety: whether a retry or a clear is safe, and ``would``: what exactly it would do.
    :param steps: what a person can do.
    """

    now: str
    then: str
    safety: Safety
    would: str
    steps: tuple[Step, ...] = ()

    @property
    def retry(self) -> str:
        """Whether a retry or a clear is safe, and what it would do, as a sentence."""
        return f"{self.safety}: {self.would}"

    def __str__(self) -> str:
        return " ".join([self.now, self.then, self.retry, *map(str, self.steps)])


class Case(StrEnum):
    """What a job is in the middle of. The value is what a list of cases calls it."""

    NOT_SENT = "queued, no request sent"
    NOT_ACCEPTED = "queued, request not accepted"
    SEND_AGAIN = "queued, request to be sent again"
    NOT_SENT_IN_TIME = "queued, past its deadline"
    PAUSED = "queued, paused"
    SPENT = "queued, spending limit reached"
    OVER_BUDGET = "queued, no room in a budget"
    RATE = "queued, waits for a limit of speed"
    SENDING = "queued, request being sent"
    SENDER_DIED = "queued, no outcome of a request"
    LOST_HANDLE = "queued, answer lost, conversation polled"
    LOST_ASKS = "queued, answer lost, a person is asked"
    LOST_FAILS = "queued, answer lost, fails without a webhook"
    LOST_RESENDS = "queued, answer lost, sent again without a webhook"
    RUNNING_WEBHOOKS = "running, webhooks arrive"
    RUNNING_POLLED = "running, no webhooks"
    RUNNING_BATCH = "running, in a batch"
    RUNNING_ENDED = "running, response ended"
    RUNNING_OVERDUE = "running, past its deadline"
    RUNNING_CANCELLED = "running, being cancelled"
    NO_PLAN = "review, no plan"
    REVIEW = "review"
    REVIEW_VOTED = "review, some approvals"
    REVIEW_OVERDUE = "review, overdue"
    APPROVED_NO_PLAN = "approved, no plan"
    APPROVED = "approved"
    APPLYING = "applying"
    EFFECT_PAUSED = "approved or applying, effect paused"
    EFFECT_RATE = "approved or applying, effect waits for a limit of speed"
    EFFECT_SENDING = "applying, effect being sent"
    EFFECT_EXPIRED = "applying, claim expired"
    EFFECT_UNKNOWN = "applying, effect unknown"
    EFFECT_CONFIRMED = "applying, effect confirmed without a trace"
    EFFECT_HELD = "applying, effect held for a person"
    EFFECT_REFUSED = "applying, effect refused"
    EFFECT_REFUSED_PARTLY = "applying, effect refused, others applied"
    EFFECT_NOT_NOW = "applying, target asks to come back later"
    CANCELLING_SENDING = "applying, being cancelled"
    CANCELLING_UNKNOWN = "applying, being cancelled, effect unknown"
    COMPLETED = "completed"
    COMPLETED_EMPTY = "completed, nothing to write"
    REJECTED = "rejected"
    REJECTED_TIMEOUT = "rejected, no decision in time"
    FAILED = "failed"
    FAILED_FINAL = "failed, the same request would fail again"
    FAILED_DEADLINE = "failed, past its deadline"
    FAILED_LOST = "failed, answer lost"
    FAILED_REVIEW = "failed, no decision in time"
    FAILED_EXHAUSTED = "failed, no revisions left"
    CANCELLED = "cancelled"
    CANCELLED_PARTLY = "cancelled, partly applied"
    UNDOING = "rolling back"
    UNDO_SENDING = "rolling back, undo being sent"
    UNDO_EXPIRED = "rolling back, claim expired"
    UNDO_UNKNOWN = "rolling back, undo unknown"
    UNDO_REFUSED = "rolling back, undo refused"
    UNDO_NOT_NOW = "rolling back, target asks to come back later"
    ROLLED_BACK = "rolled back"


_CANCEL = Step("To stop the job", ("Cancel this job",), "airflow aihandoff cancel {job} --reason REASON")
_DECIDE = Step("To decide", ("Approve", "Reject", "Request changes"), "airflow aihandoff review show {job}")
_RESOLVE = Step(
    "Search the target for the effect key `{key}`, or for the record that the plan writes; then say what you found",
    ("It was applied", "It was not applied"),
    "airflow aihandoff effects resolve {effect_id} --not-applied --reason REASON",
)
_RESOLVE_REFUSED = Step(
    "If you see the write in the target all the same, say so",
    ("It was applied",),
    "airflow aihandoff effects resolve {effect_id} --applied EXTERNAL_ID --reason REASON",
)
_ROLL_BACK = Step("To undo what is applied", ("Roll back",), "airflow aihandoff rollback {job} --reason REASON")
_UNDO_MORE = Step(
    "To continue the roll-back", ("Continue the roll-back",), "airflow aihandoff rollback {job} --reason REASON"
)
#: Not offered once it was done.
ACKNOWLEDGE = Step(
    "If nothing is left to do about it",
    ("Acknowledge",),
    "airflow aihandoff acknowledge {job} --reason REASON",
)
_RECONCILE = Step("To have it done at once", (), "airflow aihandoff reconcile")
_LOST = Step(
    "Search OpenAI's logs for a response with the metadata `aihandoff_job` {job}. If there is none, send the request "
    "again; if there is one, wait, or fail the job, since another request is billed too",
    ("Send again", "Fail the job"),
    "airflow aihandoff jobs resolve-submission {job} --send-again --reason REASON",
)
_TRIGGERER = Step("If the task is deferred and nothing happens, examine the triggerer", (), "airflow aihandoff doctor")
_CLEAR_DRAFT = Step("If the task has ended, clear {task}")
_CLEAR_EFFECT = Step("If the effect's task has failed or was not run, clear `{effect_task}`")
_AGAIN = Step('To do the work again, trigger a run with the conf `{{"regenerate": true}}`, which you pay')

_RESUME = Step("To let it continue", (), "airflow aihandoff resume {held_by} --reason REASON")
_SEE_LIMITS = Step("To see the limit, and what waits for it", (), "airflow aihandoff limits list")

_HELD_TOO = "it is held in the same way, and sends and pays nothing before that ends."
_ASKS_ONCE = "it sends the request that was not accepted yet, and you pay for one response."
_WAITS_TOO = "it waits as this attempt does, and sends and pays nothing before the wait has ended."
_SAME_RESPONSE = "it waits for the same response, and you pay nothing again."
_STANDS = "the approval stands and nothing is paid again. An effect that is applied is not sent again."
_NEW_REVISION = "{draft} makes a new revision, which you pay; {made} of {max} are used."
_FINDS_OUT = (
    "before anything is sent, it finds out what became of the write. The probe is asked; the same key is sent again "
    "only where the probe saw no trace or the target takes it without writing twice; otherwise a person resolves it."
)
_UNDO_WOULD = (
    "clearing a task of the job writes nothing, since its effects are refused. An undo that is applied is not sent "
    "again when the roll-back continues."
)
_UNKNOWN = (
    "The effect `{effect}` may have been applied: the outcome of attempt {attempt}, by {by}, has not been known since "
    "{since}.{error}{probe}"
)
_SENDING = "{by} has been sending the effect `{effect}` since {since}."
_EXPIRED = (
    "The effect `{effect}` may have been applied: {by} began to send it, and recorded no outcome before its claim "
    "expired at {until}."
)
_ENDS_CLAIM = "The attempt records the outcome. If it has died, the outcome is found out once its claim expires "
_ENDS_CLAIM += (
    "at {until}: by the probe, if there is one, by sending the same key again, if that is safe, or by a person."
)
_MAKES_UNKNOWN = "The effect's task finds out the outcome when it continues; the maintenance Dag makes it unknown."
_PERSON = "A person has to resolve it. A task that waits then continues by itself; a failed one, when you clear it."
_ENDS_CANCEL = "Once its outcome is known, the job is cancelled, or completed if everything was applied after all."

#: What is said of a job, by the case that it is in.
CASES: Mapping[Case, Words] = {
    Case.NOT_SENT: Words(
        "No request has been sent to the model yet: the job has been waiting for {task} since {since}.",
        "The task sends the request when it runs or is retried. At its deadline, {deadline}, the job fails instead.",
        Safety.SAFE,
        _ASKS_ONCE,
        (_CLEAR_DRAFT, _CANCEL),
    ),
    Case.NOT_ACCEPTED: Words(
        "OpenAI did not accept the request at {since}: {reason}.",
        "{Task} sends it again while it runs or is retried, until the deadline, {deadline}.",
        Safety.SAFE,
        _ASKS_ONCE,
        (Step("Fix what the reason names: the quota, the account, the connection"), _CLEAR_DRAFT, _CANCEL),
    ),
    Case.SEND_AGAIN: Words(
        "A person said that the lost request may be sent again at {since}.",
        "{Task} sends it when it continues or is retried.",
        Safety.SAFE,
        "it sends that request, which you pay even if the lost one was accepted.",
        (_CLEAR_DRAFT, _CANCEL),
    ),
    Case.NOT_SENT_IN_TIME: Words(
        "The deadline, {deadline}, passed, and no request is known to have been accepted.",
        "{Task} fails the job when it continues; otherwise the maintenance Dag does.",
        Safety.SAFE,
        "the first one fails this revision without a request; one after that makes a new revision, which you pay. A "
        "request whose answer was lost, if there is one, may be billed all the same.",
        (_RECONCILE,),
    ),
    Case.PAUSED: Words(
        "Nothing has been sent to the model since {held_since}: {held_why}",
        "When the pause ends, {task} sends the request. At its deadline, {deadline}, the job fails instead.",
        Safety.SAFE,
        _HELD_TOO,
        (_RESUME, _CANCEL),
    ),
    Case.SPENT: Words(
        "Nothing has been sent to the model since {held_since}. {held_why}",
        "One request of this connection at a time finds out whether that is still so, at growing intervals of at most "
        "an hour. Once one is accepted, the others are sent. At its deadline, {deadline}, the job fails instead.",
        Safety.SAFE,
        _HELD_TOO,
        (
            Step(
                "Raise the limit at OpenAI, or wait for its next period; then have it found out at once",
                (),
                "airflow aihandoff spending-limits try {held_by}",
            ),
            _CANCEL,
        ),
    ),
    Case.OVER_BUDGET: Words(
        "Nothing has been sent to the model since {held_since}. {held_why}",
        "{Task} sends the request when there is room, in order of arrival. At its deadline, {deadline}, the job fails "
        "instead.",
        Safety.SAFE,
        _HELD_TOO,
        (
            Step(
                "Raise the budget for its current period, or wait for its next one",
                (),
                "airflow aihandoff budgets raise {held_by} AMOUNT --reason REASON",
            ),
            _CANCEL,
        ),
    ),
    Case.RATE: Words(
        "Nothing has been sent to the model since {held_since}. {held_why}",
        "When its turn comes, {task} sends the request. At its deadline, {deadline}, the job fails instead.",
        Safety.SAFE,
        _HELD_TOO,
        (_SEE_LIMITS, _CANCEL),
    ),
    Case.SENDING: Words(
        "{Task} is sending the request to OpenAI.",
        "The answer is recorded within seconds. Without one, the request counts as lost after {until}.",
        Safety.SAFE,
        "it waits for that answer, and sends and pays nothing at the same time.",
        (_CANCEL,),
    ),
    Case.SENDER_DIED: Words(
        "An attempt of {task} began to send the request, and recorded no outcome until {until}. "
        "OpenAI may have accepted it.",
        "The next attempt, or the maintenance Dag, counts the request as lost; the job then waits for its response.",
        Safety.SAFE,
        "the request counts as lost, and no other one is sent or paid before the wait for its response has ended.",
        (_CLEAR_DRAFT, _RECONCILE, _CANCEL),
    ),
    Case.LOST_HANDLE: Words(SAID, WAITS[LostWait.HANDLE], Safety.SAFE, _WAITS_TOO, (_TRIGGERER, _LOST, _CANCEL)),
    Case.LOST_ASKS: Words(SAID, WAITS[LostWait.ASKS], Safety.SAFE, _WAITS_TOO, (_LOST, _CANCEL)),
    Case.LOST_FAILS: Words(SAID, WAITS[LostWait.FAILS], Safety.SAFE, _WAITS_TOO, (_LOST, _CANCEL)),
    Case.LOST_RESENDS: Words(SAID, WAITS[LostWait.RESENDS], Safety.SAFE, _WAITS_TOO, (_LOST, _CANCEL)),
    Case.RUNNING_WEBHOOKS: Words(
        "The model has been working on the response {response} since {since}.",
        "Webhooks arrive on the connection `{conn}`, the newest at {webhook}: one says when the response has ended, "
        "and the triggerer polls as well. {Task} then stores the output. At its deadline, {deadline}, the "
        "response is cancelled, and the job fails.",
        Safety.SAFE,
        _SAME_RESPONSE,
        (_TRIGGERER, _CANCEL),
    ),
    Case.RUNNING_POLLED: Words(
        "The model has been working on the response {response} since {since}.",
        "No webhook came on the connection `{conn}` within {days} days, so the triggerer polls OpenAI while "
        "{task} is deferred. The task then stores the output. At its deadline, {deadline}, the response is "
        "cancelled, and the job fails.",
        Safety.SAFE,
        _SAME_RESPONSE,
        (_TRIGGERER, _CANCEL),
    ),
    Case.RUNNING_BATCH: Words(
        "Its request is in batch {batch} at OpenAI since {since}, with others of its set. A batch takes up to a day.",
        "{Task} reads the results when the batch has ended, and stores the output. At the deadline, {deadline}, the "
        "batch is stopped: what it has run until then is kept, and otherwise the job fails.",
        Safety.SAFE,
        "it waits for the same batch, and you pay nothing again.",
        (_TRIGGERER, _CANCEL),
    ),
    Case.RUNNING_ENDED: Words(
        "The response {response} has ended ({status}); this was recorded at {since}. Its output is not stored yet.",
        "{Task} stores it when it continues.",
        Safety.SAFE,
        "it stores the output, and you pay nothing again.",
        (_TRIGGERER, _CLEAR_DRAFT, _CANCEL),
    ),
    Case.RUNNING_OVERDUE: Words(
        "The response {response} is past its deadline, {deadline}.",
        "The task that waits for it, or the maintenance Dag, asks OpenAI: an output that is there is kept; otherwise "
        "the response is cancelled, and the job fails.",
        Safety.SAFE,
        "it does the same, and you pay nothing again.",
        (_TRIGGERER, _RECONCILE, _CANCEL),
    ),
    Case.RUNNING_CANCELLED: Words(
        "The job is being cancelled, and the end of the response {response} has not been recorded since {since}.",
        "It is recorded when OpenAI is asked again, at the latest by the maintenance Dag after the deadline, "
        "{deadline}. An output that comes meanwhile is not taken.",
        Safety.REFUSED,
        "the job is being cancelled. Nothing is paid.",
        (Step("To ask OpenAI again", (), "airflow aihandoff cancel {job} --reason REASON"),),
    ),
    Case.NO_PLAN: Words(
        "The output was stored at {since}. Its plan has not been rendered yet.",
        "The approval task renders the plan when it runs, within seconds of its start; then a person is asked.",
        Safety.SAFE,
        "it renders the plan; nothing is paid or sent.",
        (
            Step("If the approval task has failed, its log says which template and why: fix the Dag, clear the task"),
            _CANCEL,
        ),
    ),
    Case.REVIEW: Words(
        "The job has been waiting since {asked} for a decision by {approvers}. No external write was made.",
        "Without a decision, {timeout} at {review_deadline}.",
        Safety.SAFE,
        "it asks about the same plan, and the time to decide stays as it is; nothing is paid or sent.",
        (_DECIDE, _CANCEL),
    ),
    Case.REVIEW_VOTED: Words(
        "{votes} of {needed} approvals are there, by {voters}. Since {asked} the job has been waiting for the others, "
        "by {approvers}. No external write was made.",
        "Without them, {timeout} at {review_deadline}.",
        Safety.SAFE,
        "the approvals stand, and the time to decide stays as it is; nothing is paid or sent.",
        (_DECIDE, _CANCEL),
    ),
    Case.REVIEW_OVERDUE: Words(
        "No one decided by {review_deadline}, and decisions are refused now. No external write was made.",
        "The approval task, if it waits, or the maintenance Dag, ends the review: {timeout}.",
        Safety.SAFE,
        "the approval task ends the review in the same way; nothing is paid or sent.",
        (_RECONCILE,),
    ),
    Case.APPROVED_NO_PLAN: Words(
        "The output was accepted without an approval at {since}. Its plan has not been rendered yet.",
        "The approval task, or the first task of an effect, renders the plan when it runs; then the effects are sent.",
        Safety.SAFE,
        _STANDS,
        (Step("If a task of the run has failed, its log says why: fix the Dag, clear the task"), _CANCEL),
    ),
    Case.APPROVED: Words(
        "The job was approved by {decider} at {since}. Nothing has been sent yet.",
        "The tasks of its effects send exactly what was approved when they run: {waiting}.",
        Safety.SAFE,
        _STANDS,
        (_CLEAR_EFFECT, _CANCEL),
    ),
    Case.APPLYING: Words(
        "{progress}. Since {since}, these have not been sent: {waiting}.",
        "The tasks of these effects send exactly what was approved when they run.",
        Safety.SAFE,
        _STANDS,
        (_CLEAR_EFFECT, _CANCEL),
    ),
    Case.EFFECT_PAUSED: Words(
        "{progress}. The effect `{held_effect}` has been held since {held_since}: {held_why}",
        "When the pause ends, the task `{effect_task}` sends exactly what was approved.",
        Safety.SAFE,
        "it is held in the same way. The approval stands, and an effect that is applied is not sent again.",
        (_RESUME, _CANCEL),
    ),
    Case.EFFECT_RATE: Words(
        "{progress}. The effect `{held_effect}` has been held since {held_since}. {held_why}",
        "When its turn comes, the task `{effect_task}` sends exactly what was approved.",
        Safety.SAFE,
        "it waits in the same way. The approval stands, and an effect that is applied is not sent again.",
        (_SEE_LIMITS, _CANCEL),
    ),
    Case.EFFECT_SENDING: Words(
        f"{_SENDING} {{progress}}.",
        _ENDS_CLAIM,
        Safety.SAFE,
        "another attempt sends nothing before that claim has expired.",
        (_CANCEL,),
    ),
    Case.EFFECT_EXPIRED: Words(
        f"{_EXPIRED} {{progress}}.",
        _MAKES_UNKNOWN,
        Safety.SAFE,
        _FINDS_OUT,
        (_CLEAR_EFFECT, Step("To make it unknown a minute after that, and resolve it", (), _RECONCILE.command)),
    ),
    Case.EFFECT_UNKNOWN: Words(
        f"{_UNKNOWN} {{progress}}.",
        "If the target has a probe, the effect's task asks it while it waits, and continues by itself. Otherwise it "
        "waits for a person.",
        Safety.SAFE,
        _FINDS_OUT,
        (_RESOLVE,),
    ),
    Case.EFFECT_CONFIRMED: Words(
        f"{_UNKNOWN} The target confirmed the write, and its probe saw no trace of it. {{progress}}.",
        _PERSON,
        Safety.SAFE,
        "the probe is asked again. Without a find, nothing is sent before a person has resolved the effect.",
        (_RESOLVE,),
    ),
    Case.EFFECT_HELD: Words(
        f"{_UNKNOWN} It waits for a person, who was notified at {{held}}. {{progress}}.",
        _PERSON,
        Safety.SAFE,
        _FINDS_OUT,
        (_RESOLVE,),
    ),
    Case.EFFECT_REFUSED: Words(
        "The target refused the effect `{effect}` at {since}, and made no write of it: {refusal}.",
        "Nothing happens by itself: a refusal ends the task of the effect, which is not retried.",
        Safety.SAFE,
        "the task of the effect sends the same request. If the Dag renders another one now, a person is asked first.",
        (
            Step("If the target was wrong, fix it, and clear `{effect_task}`"),
            Step("If the request was wrong, fix the Dag, clear the approval task, and decide on the new plan"),
            _RESOLVE_REFUSED,
            _CANCEL,
        ),
    ),
    Case.EFFECT_REFUSED_PARTLY: Words(
        "{progress}. The target refused the effect `{effect}` at {since}, and made no write of it: {refusal}.",
        "Nothing happens by itself: a refusal ends the task of the effect, which is not retried.",
        Safety.SAFE,
        "the task of the effect sends the same request. No other one can be sent, since others of the job may be "
        "applied; these are not sent again.",
        (
            Step("If the target was wrong, fix it, and clear `{effect_task}`"),
            _RESOLVE_REFUSED,
            _ROLL_BACK,
            _CANCEL,
        ),
    ),
    Case.EFFECT_NOT_NOW: Words(
        "The effect `{effect}` was not sent, or its target asked to come back later at {since}: {refusal}. {progress}.",
        "The task of the effect tries again by itself while it waits or is retried.",
        Safety.SAFE,
        "it sends what was approved, if nothing was written yet.",
        (_CLEAR_EFFECT, _CANCEL),
    ),
    Case.CANCELLING_SENDING: Words(
        f"The job is being cancelled: effects that were not sent will not be sent. {_SENDING} {{progress}}.",
        f"{_ENDS_CANCEL} Its claim expires at {{until}}; after that, the maintenance Dag makes the effect unknown.",
        Safety.REFUSED,
        "effects that were not sent are never sent; the one under way is not sent again.",
        (
            Step(
                "If the claim has expired, make the effect unknown, so that you can resolve it", (), _RECONCILE.command
            ),
        ),
    ),
    Case.CANCELLING_UNKNOWN: Words(
        f"The job is being cancelled: effects that were not sent will not be sent. {_UNKNOWN} {{progress}}.",
        f"The probe of the target, if there is one and the effect's task waits, or a person resolves it. "
        f"{_ENDS_CANCEL}",
        Safety.REFUSED,
        "effects that were not sent are never sent; the unknown one is not sent again.",
        (_RESOLVE,),
    ),
    Case.COMPLETED: Words(
        "Every effect was applied by {since}: {progress}.",
        "Nothing more happens.",
        Safety.SAFE,
        "the tasks return what is stored; nothing is paid or written again.",
        (_ROLL_BACK,),
    ),
    Case.COMPLETED_EMPTY: Words(
        "The job was completed at {since}. It made no external write.",
        "Nothing more happens.",
        Safety.SAFE,
        "the tasks return what is stored; nothing is paid or written.",
    ),
    Case.REJECTED: Words(
        "The job was rejected by {decider} at {since}. Nothing will be written.",
        "Nothing more happens.",
        Safety.SAFE,
        "in this run the rejection stands, and nothing is paid. In another run, the same key makes a new revision, "
        "which you pay and decide on.",
    ),
    Case.REJECTED_TIMEOUT: Words(
        "No one decided in time, so the job was rejected at {since}. Nothing will be written.",
        "Nothing more happens.",
        Safety.SAFE,
        "in this run the rejection stands, and nothing is paid. In another run, the same key makes a new revision, "
        "which you pay and decide on.",
    ),
    Case.FAILED: Words(
        "The job failed at {since}: {reason}. Nothing will be written.{acknowledged}",
        "If Airflow retries {draft}, it makes a new revision by itself.",
        Safety.PAID,
        _NEW_REVISION,
        (Step("Fix the cause, then clear {draft}"), ACKNOWLEDGE),
    ),
    Case.FAILED_FINAL: Words(
        "The job failed at {since}: {reason}. The same request would fail again. Nothing will be written."
        "{acknowledged}",
        "Nothing happens by itself: such a failure ends {draft}, which is not retried.",
        Safety.PAID,
        _NEW_REVISION,
        (Step("Fix the input, the output type, the account or the connection, then clear {draft}"), ACKNOWLEDGE),
    ),
    Case.FAILED_DEADLINE: Words(
        "The job failed at {since}: {reason}. Nothing will be written.{acknowledged}",
        "If Airflow retries {draft}, it makes a new revision by itself.",
        Safety.PAID,
        f"{_NEW_REVISION} It has a deadline of its own.",
        (
            Step("If responses of this kind take longer, give the task a longer `deadline`; then clear {draft}"),
            ACKNOWLEDGE,
        ),
    ),
    Case.FAILED_LOST: Words(
        "The job failed at {since}: {reason}. Nothing will be written, but a response that the ledger does not know "
        "may have run, and may be billed.{acknowledged}",
        "Nothing happens by itself: such a failure ends {draft}, which is not retried.",
        Safety.CHECK,
        f"{_NEW_REVISION} A response that ran all the same is not taken.",
        (
            Step(
                "Search OpenAI's logs for responses with the metadata `aihandoff_job` {job}; then clear {draft} to "
                "ask again"
            ),
            ACKNOWLEDGE,
        ),
    ),
    Case.FAILED_REVIEW: Words(
        "No one decided in time, so the job failed at {since}, as its author has said. Nothing will be written."
        "{acknowledged}",
        "Nothing more happens.",
        Safety.PAID,
        f"{_NEW_REVISION} A person then decides on it.",
        (Step("To ask again, clear {draft}"), ACKNOWLEDGE),
    ),
    Case.FAILED_EXHAUSTED: Words(
        "The job failed at {since}: {reason}. Nothing will be written.{acknowledged}",
        "Nothing more happens: {made} of {max} revisions are used.",
        Safety.REFUSED,
        "no revision is left, and nothing is paid.",
        (
            Step("Find out why each revision failed; then raise `max_revisions` in the Dag, or change the key"),
            ACKNOWLEDGE,
        ),
    ),
    Case.CANCELLED: Words(
        "The job was cancelled at {since}: {reason}. No external write was made.",
        "Nothing more happens.",
        Safety.REFUSED,
        "a cancelled job stays cancelled, and nothing is paid.",
        (_AGAIN,),
    ),
    Case.CANCELLED_PARTLY: Words(
        "The job was cancelled at {since}: {reason}. Applied effects stay until you roll them back.",
        "Nothing more happens.",
        Safety.REFUSED,
        "a cancelled job stays cancelled; nothing is paid or sent.",
        (_ROLL_BACK,),
    ),
    Case.UNDOING: Words(
        "The applied effects are being undone. {undone}. Not sent yet: {undo_waiting}.",
        "A roll-back that runs in a task continues by itself. One that was begun on a page or at a terminal has "
        "stopped here.",
        Safety.SAFE,
        _UNDO_WOULD,
        (_UNDO_MORE,),
    ),
    Case.UNDO_SENDING: Words(
        f"The applied effects are being undone. {{undone}}. {_SENDING}",
        _ENDS_CLAIM,
        Safety.SAFE,
        _UNDO_WOULD,
        (_UNDO_MORE,),
    ),
    Case.UNDO_EXPIRED: Words(
        f"The applied effects are being undone. {{undone}}. {_EXPIRED}",
        "The roll-back finds out the outcome when it continues; the maintenance Dag makes it unknown.",
        Safety.SAFE,
        _UNDO_WOULD,
        (_UNDO_MORE,),
    ),
    Case.UNDO_UNKNOWN: Words(
        f"The applied effects are being undone. {{undone}}. {_UNKNOWN}",
        "A roll-back in a task that waits continues by itself once the probe, or a person, has resolved it. Another "
        "one has to be continued.",
        Safety.SAFE,
        _UNDO_WOULD,
        (_RESOLVE, _UNDO_MORE),
    ),
    Case.UNDO_REFUSED: Words(
        "The applied effects are being undone. {undone}. The target refused `{effect}` at {since}: {refusal}.",
        "Nothing happens by itself.",
        Safety.SAFE,
        _UNDO_WOULD,
        (Step("Fix what the target names"), _UNDO_MORE, _RESOLVE_REFUSED),
    ),
    Case.UNDO_NOT_NOW: Words(
        "The applied effects are being undone. {undone}. `{effect}` was not sent, or its target asked to come back "
        "later at {since}: {refusal}.",
        "A roll-back that runs in a task tries again by itself. Another one has to be continued.",
        Safety.SAFE,
        _UNDO_WOULD,
        (_UNDO_MORE,),
    ),
    Case.ROLLED_BACK: Words(
        "{undone_all}",
        "Nothing more happens.",
        Safety.SAFE,
        "nothing is paid, and its effects are refused.",
        (_AGAIN,),
    ),
}
