"""The errors of the core: what happened, to which job, whether an external write was made, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.invisible import escape_lines

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.models import Effect

#: What an error says of itself. What was written for the job before, it may not know.
NOTHING_WRITTEN = "This step made no external write."


class HandoffError(Exception):
    """Base of every error that this package raises. Its text is for terminals and logs: see :mod:`.invisible`.

    :param what: what happened, as a sentence.
    :param job: the job it happened to, as :attr:`airflow_provider_aihandoff.core.models.Job.label`.
    :param written: whether an external write was made, as a sentence.
    :param remedy: what to do next, as a sentence.
    """

    def __init__(self, what: str, *, job: str = "", written: str = NOTHING_WRITTEN, remedy: str = "") -> None:
        self.what, self.job, self.written, self.remedy = what, job, written, remedy
        super().__init__(self._sentences())

    def restate(self, *, written: str, remedy: str) -> None:
        """Let someone who knows more say whether an external write was made, and what to do next."""
        self.written, self.remedy = written, remedy
        self.args = (self._sentences(),)

    def rewrite(self, clean: Callable[[str], str]) -> None:
        """Write each part of the message again, in place."""
        self.what, self.job, self.written, self.remedy = map(clean, (self.what, self.job, self.written, self.remedy))
        self.args = (self._sentences(),)

    def _sentences(self) -> str:
        parts = (f"{self.job}:" if self.job else "", self.what, self.written, self.remedy)
        return escape_lines(" ".join(part for part in parts if part))


class LedgerSchemaError(HandoffError):
    """The ledger's schema is missing, behind or ahead of this package."""


class LedgerUnavailable(HandoffError):
    """The ledger could not be reached, or the connection broke while the outcome of a commit was in doubt."""


class JobNotFound(HandoffError):
    """No job has this id."""


class BatchMovedOn(HandoffError):
    """Another attempt of the task has taken a batch over; this one sends nothing more of it."""


class BatchRefused(HandoffError):
    """The provider takes no batch of these requests, for a reason that a retry cannot fix."""


class SetNotFound(HandoffError):
    """No set has this id."""


class SetRefused(HandoffError):
    """The items of a set are not what they should be: none at all, a key twice, or one that does not render."""


class EffectNotFound(HandoffError):
    """No effect has this id."""


class WebhookNotFound(HandoffError):
    """The inbox has no webhook with this id."""


class WebhookSettled(HandoffError):
    """The webhook has done what it could do; there is nothing to replay or to discard."""


class LimitRefused(HandoffError):
    """A limit of speed cannot be set like this."""


class LimitNotFound(HandoffError):
    """No one has set this limit."""


class SubscriptionRefused(HandoffError):
    """A subscription to events cannot be made like this."""


class AddressRefused(SubscriptionRefused):
    """Events may not be sent to this address."""


class SubscriptionNotFound(HandoffError):
    """No subscription to events has this name."""


class IllegalTransition(HandoffError):
    """The event is not valid in the state that the job (or the effect) is in."""


class InputChanged(HandoffError):
    """The job key was used before with another input, and something may have been written for it."""


class RevisionsExhausted(HandoffError):
    """The job has had as many revisions by the model as its author allows."""


class JobCancelled(HandoffError):
    """The job was cancelled."""


class JobFailed(HandoffError):
    """The job has no output that can be used."""


class JobNotApproved(HandoffError):
    """An effect was to be applied before anyone approved it."""


class PlanNotApproved(HandoffError):
    """The plan of an effect is not the one that was approved."""


class StaleDecision(HandoffError):
    """A decision names a digest that is no longer the job's."""


class LinkNotFound(HandoffError):
    """No decision link has this token."""


class LinkForAnotherUser(HandoffError):
    """A decision link was opened by another user than the one whom it is for."""


class LinkSpent(HandoffError):
    """A decision link was used, has expired, or is about what the job no longer says."""


class StaleBulkDecision(HandoffError):
    """Some of the jobs in a bulk decision have changed since they were opened; none was decided.

    :param stale: why, as text, by the id of the job.
    """

    def __init__(self, what: str, *, stale: Mapping[int, str], **kwargs: str) -> None:
        super().__init__(what, **kwargs)
        self.stale = dict(stale)


class MayNotDecide(HandoffError):
    """The rules of the job's author do not let this person decide on it."""


class CannotReassign(HandoffError):
    """The review cannot be given to these people: its author's rules do not let it, or it has changed since."""


class CannotChange(HandoffError):
    """The output cannot be changed in this way: a bound is reached, or there is nothing to change."""


class BulkChanged(HandoffError):
    """A bulk action was confirmed for other jobs than it would be about now."""


class BulkNotFound(HandoffError):
    """No bulk action has this id."""


class FilterRefused(HandoffError):
    """A filter of jobs is not valid, or cannot be answered from an index.

    :param field: the part of the filter, by its name in an address; empty: it is not one alone.
    """

    def __init__(self, what: str, *, field: str = "", **sentences: str) -> None:
        super().__init__(what, **sentences)
        self.field = field


class BudgetRefused(HandoffError):
    """A budget is not valid as a person wants it, or has changed since they saw it.

    :param field: the part that is wrong, by its name in an address; empty: it is not one alone.
    """

    def __init__(self, what: str, *, field: str = "", **sentences: str) -> None:
        super().__init__(what, **sentences)
        self.field = field


class BudgetNotFound(HandoffError):
    """The ledger has no budget with this name or id."""


class RequestError(HandoffError):
    """The arguments do not make a background request."""


class TemplateError(HandoffError):
    """A template of a task gives something that has no text, or not the same one each time."""


class PlanError(HandoffError):
    """An effect could not be rendered to the exact request that it would send."""


class UnknownTargetKind(PlanError):
    """No target of this kind can be used here."""


class EffectRefused(HandoffError):
    """The target refused the write, in a way that proves that no external write was made.

    :param answered: by the target. What it refuses may be this very write, which came twice: an intermediary between
        here and the target may send a request again, and pass on the second answer. So a target with a probe is
        probed first. False where nothing was sent.
    """

    def __init__(self, what: str, *, answered: bool = True, **kwargs: str) -> None:
        super().__init__(what, **kwargs)
        self.answered = answered


class EffectNotNow(HandoffError):
    """The write was not sent, or the target asked to come back later; trying again is safe.

    :param retry_after: seconds for which the target wants to be left alone, where it says so.
    :param answered: by the target, or by what stands before it and may have forwarded the request. So a target with a
        probe is probed before it gets the request again. False where nothing was sent.
    """

    def __init__(self, what: str, *, retry_after: float | None = None, answered: bool = True, **kwargs: str) -> None:
        super().__init__(what, **kwargs)
        self.retry_after = retry_after
        self.answered = answered


class EffectUnknown(HandoffError):
    """The write may have been applied: a probe or a person must say.

    :param effect: the effect, as the ledger has it.
    """

    def __init__(self, what: str, *, effect: Effect, **kwargs: str) -> None:
        super().__init__(what, **kwargs)
        self.effect = effect


class EffectBusy(HandoffError):
    """Another attempt has the claim, and may be sending now.

    :param effect: the effect, as the ledger has it.
    :param seconds: until its claim expires, unless its outcome is recorded before.
    """

    def __init__(self, what: str, *, effect: Effect, seconds: float, **kwargs: str) -> None:
        super().__init__(what, **kwargs)
        self.effect = effect
        self.seconds = seconds


class EffectHeld(HandoffError):
    """A pause or a limit keeps an external write from being sent now.

    :param effect: the effect, as the ledger has it.
    :param seconds: until it may be asked for again; None: until what holds it has ended.
    """

    def __init__(self, what: str, *, effect: Effect, seconds: float | None, **kwargs: str) -> None:
        super().__init__(what, **kwargs)
        self.effect = effect
        self.seconds = seconds


class PauseNotFound(HandoffError):
    """The ledger has no pause with this id."""


class EffectOutOfOrder(HandoffError):
    """An effect that must come before this one is not applied."""


class ClaimLost(HandoffError):
    """Another attempt took over this effect, or may have; this one can no longer record an outcome."""


class CannotCancel(HandoffError):
    """The job has ended: there is nothing left to stop."""


class CannotAcknowledge(HandoffError):
    """The job has not failed, or has failed again since."""


class CannotResolve(HandoffError):
    """The effect is not unknown, or a newer attempt than the one that was checked is."""


class NothingLost(HandoffError):
    """No request of the job is lost, or it is another one than the one that was seen."""


class CannotRollBack(HandoffError):
    """The job has nothing applied that could be undone, or not now, or not all of it."""


class JobRolledBack(HandoffError):
    """What the job had written was rolled back, or is being rolled back."""


class CannotRegenerate(HandoffError):
    """Something is applied for the job that was not undone, so that no new revision is made."""


class JobRequestNotFound(HandoffError):
    """No request for a job has this id."""


class JobRequestConflict(HandoffError):
    """The key of a request was used before, with another content."""


class JobRequestInProgress(HandoffError):
    """A request with the same key is being recorded, by a transaction that is under way."""


class JobRequestRefused(HandoffError):
    """A request is not what its job type takes.

    :param problems: where in it, and what is wrong there.
    """

    def __init__(self, what: str, *, problems: Sequence[tuple[str, str]] = (), **kwargs: str) -> None:
        super().__init__(what, **kwargs)
        self.problems = problems


class TooManyRequests(HandoffError):
    """A login has made as many requests for jobs as it may for now."""


class JobTypeNotFound(HandoffError):
    """No Dag does jobs of this type."""


class JobTypeAmbiguous(HandoffError):
    """Several Dags say that they do jobs of this type."""


class RunNotMade(HandoffError):
    """No Dag run was made for a request, for now."""
