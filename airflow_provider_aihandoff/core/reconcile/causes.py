"""Why a person is needed, out of what waits in the ledger: each cause in a sentence with its next step. Pure.

A cause is notified when two runs in a row have found it, since much of it ends by itself within minutes; and again
when it is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from airflow_provider_aihandoff.core.reconcile.findings import Finding
from airflow_provider_aihandoff.core.reconcile.gauge_store import Waiting

#: What is known of a cause: it was found once, or people were notified of it.
Known = Literal["found", "notified"]


@dataclass(frozen=True)
class Cause:
    """One reason why a person is needed.

    :param name: in a word or two, the same in every run.
    :param message: what there is to say, and the next step; without content.
    """

    name: str
    count: int
    message: str


#: What is said of each number of :class:`Waiting`: of one, of several, and the next step.
_SAID: Mapping[str, tuple[str, str, str, str]] = {
    "unknown_effects": (
        "unknown effects",
        "1 external write may have been made, and its outcome is not known.",
        "{} external writes may have been made, and their outcome is not known.",
        "Check the target, then resolve: `airflow aihandoff effects list --state unknown`.",
    ),
    "lost_requests": (
        "lost requests",
        "The answer to 1 request was lost: a response may run.",
        "The answers to {} requests were lost: responses may run.",
        "They wait as `on_lost_submission` says; decide with `airflow aihandoff jobs resolve-submission`.",
    ),
    "stale_claims": (
        "expired claims",
        "1 claim has expired without an outcome.",
        "{} claims have expired without an outcome.",
        "Clear the task of the effect, which finds out: `airflow aihandoff effects list --state claimed`.",
    ),
    "overdue_reviews": (
        "overdue reviews",
        "1 review is past its deadline, and has not ended.",
        "{} reviews are past their deadline, and have not ended.",
        "Check the triggerers (`airflow aihandoff doctor`), or clear the approval task.",
    ),
    "overdue_responses": (
        "overdue responses",
        "1 response is past its deadline, and has not ended.",
        "{} responses are past their deadline, and have not ended.",
        "Check the triggerers and the connection to OpenAI: `airflow aihandoff doctor`.",
    ),
    "quarantined": (
        "quarantined webhooks",
        "1 webhook is in quarantine.",
        "{} webhooks are in quarantine.",
        "See `airflow aihandoff inbox list --disposition quarantined`.",
    ),
}


def open_causes(waiting: Waiting, findings: Sequence[Finding]) -> list[Cause]:
    """Why a person is needed now."""
    causes = []
    for field, (name, one, several, step) in _SAID.items():
        if count := getattr(waiting, field):
            causes.append(Cause(name, count, f"{one if count == 1 else several.format(count)} {step}"))
    if failed := sum(finding.failed for finding in findings):
        steps = "1 step" if failed == 1 else f"{failed} steps"
        message = f"{steps} of the maintenance Dag failed; the next run tries again. See the log of its task."
        causes.append(Cause("failed steps", failed, message))
    return causes


def due(causes: Sequence[Cause], known: Mapping[str, Known]) -> tuple[list[Cause], list[str], dict[str, Known]]:
    """What to notify people of: causes that two runs have found, and the names of those that are over.

    :param known: what the run before knew of each.
    :return: the two, and what is known if nothing can be sent.
    """
    found = {cause.name for cause in causes}
    new = [cause for cause in causes if known.get(cause.name) == "found"]
    over = [name for name, state in known.items() if state == "notified" and name not in found]
    kept: dict[str, Known] = {name: state for name, state in known.items() if name in found or name in over}
    return new, over, {**dict.fromkeys(found, "found"), **kept}
