"""The overview of a ledger: what needs a person now, and the state of things. Reads alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_aihandoff.core.jobs.needs import Needs, needs_of
from airflow_provider_aihandoff.core.jobs.overview_store import Figures
from airflow_provider_aihandoff.core.ledger import Ledger


@dataclass(frozen=True)
class Overview:
    """What an operator sees first."""

    needs: Needs
    figures: Figures


def overview_of(ledger: Ledger, dag_ids: Sequence[str], *, silence: float) -> Overview:
    """Return the overview of the jobs of these Dags.

    :param silence: seconds without a webhook after which a connection counts as silent.
    """
    return Overview(needs_of(ledger, dag_ids, silence=silence), ledger.overviews.figures(dag_ids))
