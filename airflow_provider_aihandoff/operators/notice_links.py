"""Makes the decision links that a notification carries, while its templates are rendered.

Their tokens go into the message and nowhere else: the ledger keeps a hash, and Airflow's masker hides them in logs.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import mask_secret

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Job
    from airflow_provider_aihandoff.core.review.decision_link import LinkVerdict


class NoticeLinks:
    """The decision links of one notification about one job. All of its notifiers send the same ones.

    :param base_url: where Airflow is reached.
    """

    def __init__(self, ledger: Ledger, job: Job, base_url: str) -> None:
        self._ledger = ledger
        self._job = job
        self._base_url = base_url
        self._made: dict[tuple[LinkVerdict, str, float | None], str | None] = {}

    def address(self, verdict: LinkVerdict, person: str, hours: float | None) -> str | None:
        """The address of a link; None where the job waits for no decision, or says something else by now.

        :param person: whom it is for.
        :param hours: for how long; None: until the review's deadline.
        :raises ValueError: it names no one who can log in, or no time.
        """
        if hours is not None and not hours > 0:
            raise ValueError(f"hours of a decision link must be more than 0, not {hours!r}.")
        key = (verdict, person, hours)
        if key not in self._made:
            self._made[key] = self._make(verdict, person, None if hours is None else timedelta(hours=hours))
        return self._made[key]

    def _make(self, verdict: LinkVerdict, person: str, lifetime: timedelta | None) -> str | None:
        token = self._ledger.decision_links.make(self._job, verdict, person, lifetime=lifetime)
        if token is None:
            return None
        mask_secret(token)
        return f"{self._base_url}/aihandoff/decide/{token}"
