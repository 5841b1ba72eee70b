"""What a run of the maintenance Dag notifies people of: what needs a person, and its own steps that failed. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_provider_aihandoff.core.jobs.needs import Cause, Needs
from airflow_provider_aihandoff.core.reconcile.findings import Finding


def open_causes(needs: Needs, findings: Sequence[Finding]) -> list[Cause]:
    """Why a person is needed now.

    :param findings: of this run.
    """
    causes = needs.causes
    if failed := sum(finding.failed for finding in findings):
        steps = "1 step" if failed == 1 else f"{failed} steps"
        message = f"{steps} of the maintenance Dag failed; the next run tries again. See the log of its task."
        causes.append(Cause("failed steps", failed, message, "airflow aihandoff reconcile"))
    return causes
