"""The rules that ship with the package. Each approves what it is sure of, and asks a person about everything else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from decimal import Context, Decimal, Inexact, localcontext
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.core.digests import canonical_json, digest
from airflow_provider_aihandoff.policies.fields import Objection, amount, check_path, fraction, quoted, values_at
from airflow_provider_aihandoff.policies.policy import ApprovalPolicy, Approve, AskPerson, verdict_of

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.jobs.job_view import JobView
    from airflow_provider_aihandoff.core.review.rules import Approvers

#: Any sum of what JSON numbers and :data:`fields._AMOUNT` can hold is exact in so many digits.
_EXACT = Context(prec=1000, traps=[Inexact])


def _version(*parts: Any) -> str:
    """A version that changes with whatever it is made from."""
    return digest(parts)[:12]


class Rule(ApprovalPolicy):
    """Base of the shipped rules. Its version is a digest of its class and parameters: another limit, another version.

    :param name: how the ledger names it; give two rules of a kind two names.
    :param approvers: who may decide where it asks; by default those that the approval task names.
    :param approvals: how many of them have to approve; by default as many as the approval task says.
    :param parameters: everything else that its verdict depends on.
    """

    #: Raised with every change of what the class decides, since that is a new version too.
    logic = 1

    #: Where it asks several people, none sees how others have voted before they have voted themselves.
    blind = False

    def __init__(self, name: str, approvers: Approvers | None, approvals: int | None, *parameters: Any) -> None:
        if not name or "@" in name:
            raise ValueError(f"A rule needs a name without '@', not {name!r}.")
        if approvals is not None and approvals < 1:
            raise ValueError(f"approvals must be at least 1, not {approvals}.")
        self.name = name
        self.approvers = approvers
        self.approvals = approvals
        self.version = _version(type(self).__name__, self.logic, parameters, approvers, approvals)

    def decide(self, job: JobView, plan: Sequence[dict[str, Any]]) -> Approve | AskPerson:
        """Approve what passes the rule."""
        try:
            return Approve(self.passes(job))
        except Objection as objection:
            return AskPerson(str(objection), self.approvers, self.approvals, self.blind)

    @abstractmethod
    def passes(self, job: JobView) -> str:
        """Say why no person is needed.

        :raises Objection: one is.
        """


class MinimumConfidence(Rule):
    """Approve where the model is confident enough.

    :param threshold: from 0 to 1; as much is enough.
    :param field: where the output says how confident it is, a number from 0 to 1: a path as :func:`values_at` takes
        it. Where there are several, the lowest counts.
    :raises ValueError: there is no such path or threshold.
    """

    def __init__(
        self,
        threshold: float,
        field: str = "confidence",
        *,
        name: str = "minimum-confidence",
        approvers: Approvers | None = None,
        approvals: int | None = None,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"A threshold is from 0 to 1, not {threshold}.")
        check_path(field)
        super().__init__(name, approvers, approvals, threshold, field)
        self.threshold = threshold
        self.field = field

    def passes(self, job: JobView) -> str:
        """Compare the lowest confidence."""
        lowest = min(fraction(value, self.field) for value in values_at(job.output, self.field))
        if lowest < self.threshold:
            raise Objection(f"{self.field} is {lowest}, below {self.threshold}")
        return f"{self.field} is {lowest}, at least {self.threshold}"


class AllowedValues(Rule):
    """Approve where a field has one of some values.

    :param field: a path as :func:`values_at` takes it. Where it leads to several values, each must be allowed.
    :param values: texts, whole numbers, true, false or None; compared with their type: 1 is not true.
    :raises ValueError: there is no such path, or no value.
    """

    def __init__(
        self,
        field: str,
        values: Collection[str | int | None],
        *,
        name: str = "allowed-values",
        approvers: Approvers | None = None,
        approvals: int | None = None,
    ) -> None:
        if isinstance(values, str) or not values:
            raise ValueError(f"AllowedValues needs the values of {field!r} that are allowed, in a list.")
        check_path(field)
        self.field = field
        self.allowed = frozenset(canonical_json(value) for value in values)
        super().__init__(name, approvers, approvals, field, self.allowed)

    def passes(self, job: JobView) -> str:
        """Check that every value is allowed."""
        found = values_at(job.output, self.field)
        for value in found:
            if canonical_json(value) not in self.allowed:
                raise Objection(f"{self.field} is {quoted(value)}, which needs a person")
        return f"{self.field} is {', '.join(dict.fromkeys(map(quoted, found)))}"


class AmountLimit(Rule):
    """Approve where an amount is within a limit. Several amounts are added up, exactly.

    It knows no currency: where there can be more than one, put an :class:`AllowedValues` of the currency beside it.

    :param field: a path as :func:`values_at` takes it, to numbers, or to texts such as ``1250.00``. A negative amount
        asks a person, since it could hide another one in the sum.
    :param limit: as much is within it.
    :raises ValueError: there is no such path or limit.
    """

    def __init__(
        self,
        field: str,
        limit: Decimal | float | str,
        *,
        name: str = "amount-limit",
        approvers: Approvers | None = None,
        approvals: int | None = None,
    ) -> None:
        check_path(field)
        try:
            self.limit = amount(limit, "the limit")
        except Objection as objection:
            raise ValueError(f"{objection}.") from objection
        self.field = field
        super().__init__(name, approvers, approvals, field, self.limit)

    def passes(self, job: JobView) -> str:
        """Add the amounts up, and compare."""
        amounts = [amount(value, self.field) for value in values_at(job.output, self.field)]
        with localcontext(_EXACT):
            total = sum(amounts[1:], amounts[0])
        what = self.field if len(amounts) == 1 else f"the sum of {len(amounts)} {self.field}"
        if total > self.limit:
            raise Objection(f"{what} is {total}, above {self.limit}")
        return f"{what} is {total}, at most {self.limit}"


class Sampling(Rule):
    """Approve, except for a share of the jobs, which a person reviews in any case.

    Whether a job is in the sample follows from its type, its key, its revision and the rule's name: a retry or a clear,
    and another ledger, say the same. It is no secret: who can choose a key can find one that is not in it.

    :param percent: from 0 to 100. A larger share has every job of a smaller one.
    :param approvals: how many people read each job of the sample; with ``blind``, none of them sees how others have
        voted before they have voted themselves.
    :raises ValueError: there is no such share.
    """

    def __init__(
        self,
        percent: float,
        *,
        name: str = "sampling",
        approvers: Approvers | None = None,
        approvals: int | None = None,
        blind: bool = False,
    ) -> None:
        if not 0 <= percent <= 100:
            raise ValueError(f"A share is from 0 to 100 percent, not {percent}.")
        if blind and approvals is not None and approvals < 2:
            raise ValueError("blind needs at least 2 approvals: one reader alone sees no other vote.")
        super().__init__(name, approvers, approvals, percent, *(["blind"] if blind else []))
        self.percent = percent
        self.blind = blind

    def passes(self, job: JobView) -> str:
        """Draw."""
        drawn = int(digest([self.name, job.job_type, job.job_key, job.revision]), 16)
        if drawn * 100 < self.percent * 2**256:
            raise Objection(f"it is in the sample of {self.percent} %")
        return f"it is not in the sample of {self.percent} %"


class AllOf(ApprovalPolicy):
    """Approve where every one of several policies approves. The reason names each by its label.

    Where more than one asks, the reviewer sees the reasons of all. Who may decide is what the first one says that names
    approvers; as many have to approve as the strictest says. So an order never takes a requirement away that another
    one makes.

    :raises ValueError: there is no policy.
    """

    def __init__(self, *policies: ApprovalPolicy, name: str = "all-of") -> None:
        if not policies:
            raise ValueError("AllOf needs a policy.")
        self.policies = policies
        self.name = name
        self.version = _version([policy.label for policy in policies])

    def decide(self, job: JobView, plan: Sequence[dict[str, Any]]) -> Approve | AskPerson:
        """Ask each of them."""
        verdicts = [(policy.label, verdict_of(policy, job, plan)) for policy in self.policies]
        asks = [(label, verdict) for label, verdict in verdicts if isinstance(verdict, AskPerson)]
        reason = "; ".join(f"{verdict.reason} ({label})" for label, verdict in asks or verdicts)
        if not asks:
            return Approve(reason)
        return AskPerson(
            reason,
            approvers=next((ask.approvers for _, ask in asks if ask.approvers), None),
            approvals=max((ask.approvals for _, ask in asks if ask.approvals is not None), default=None),
            blind=any(ask.blind for _, ask in asks),
        )
