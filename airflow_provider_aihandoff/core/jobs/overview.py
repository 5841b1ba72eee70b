"""The overview of a ledger: what needs a person now, and the state of things. Reads alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_aihandoff.core.jobs.job_filter import Need
from airflow_provider_aihandoff.core.jobs.overview_store import MOST_COUNTED, ConnectionActivity, Figures
from airflow_provider_aihandoff.core.ledger import Ledger


@dataclass(frozen=True)
class Overview:
    """What an operator sees first.

    :param needs: how many jobs need a person, by reason, each up to one more than :data:`MOST_COUNTED`.
    :param silent: the connections whose webhooks fell silent.
    """

    needs: dict[Need, int]
    silent: list[ConnectionActivity]
    figures: Figures


def overview_of(ledger: Ledger, dag_ids: Sequence[str], *, silence: float) -> Overview:
    """Return the overview of the jobs of these Dags.

    :param silence: seconds without a webhook after which a connection counts as silent.
    """
    needs = ledger.search.count_needs(dag_ids, at_most=MOST_COUNTED + 1)
    figures = ledger.overviews.figures(dag_ids)
    return Overview(needs, [each for each in figures.connections if each.is_silent(silence)], figures)


def counted(number: int) -> str:
    """A number that was counted up to :data:`MOST_COUNTED`, as text."""
    return f"{number:,}" if number <= MOST_COUNTED else f"more than {MOST_COUNTED:,}"
