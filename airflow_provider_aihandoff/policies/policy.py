"""What a policy is, and how one is asked. Pure: a policy sees a job and its plan, and says yes or ask."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.core.error_text import shown

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.jobs.job_view import JobView
    from airflow_provider_aihandoff.core.review.rules import Approvers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Approve:
    """The policy approves.

    :param reason: why, for the record.
    """

    reason: str


@dataclass(frozen=True)
class AskPerson:
    """A person has to decide.

    :param reason: why, for the record and the reviewer.
    :param approvers: who may decide on this job; by default those that the approval task names.
    :param approvals: how many of them have to approve; by default as many as the approval task says.
    :param blind: none of them sees how others have voted before they have voted themselves.
    """

    reason: str
    approvers: Approvers | None = None
    approvals: int | None = None
    blind: bool = False


class ApprovalPolicy(ABC):
    """A rule, written next to the Dag, that approves what needs no person.

    Give a subclass a ``name`` and a ``version``; the ledger records both with each decision. Raise the version with
    every change: it is part of what a decision is bound to. A policy that raises sends the job to a person.
    """

    name: str
    version: str

    @abstractmethod
    def decide(self, job: JobView, plan: Sequence[dict[str, Any]]) -> Approve | AskPerson:
        """Say whether the job needs a person.

        :param job: the job with its output, input and permissions.
        :param plan: the exact requests that would be sent, in order.
        """

    @property
    def label(self) -> str:
        """How the ledger names the policy."""
        return f"{self.name}@{self.version}"


def verdict_of(policy: ApprovalPolicy, job: JobView, plan: Sequence[dict[str, Any]]) -> Approve | AskPerson:
    """Ask a policy. One that raises, or returns no verdict, asks a person; the log says why."""
    try:
        verdict: Any = policy.decide(job, plan)
    except Exception as error:
        log.error("The policy %s raised; a person decides.", policy.label, exc_info=shown(error))
        return AskPerson("the policy raised an error")
    if not isinstance(verdict, (Approve, AskPerson)):
        log.error("The policy %s returned %r; a person decides.", policy.label, verdict)
        return AskPerson("the policy returned no verdict")
    return verdict
