"""Written policies that approve without a person. Pure: a policy sees a job and its plan, and says yes or ask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_aihandoff.jobview import JobView
    from airflow_provider_aihandoff.reviewers import Approvers


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
    :param approvers: who; by default as the approval task says.
    :param approvals: how many of them; by default as the approval task says.
    """

    reason: str
    approvers: Approvers | None = None
    approvals: int | None = None


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
