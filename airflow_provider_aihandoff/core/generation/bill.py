"""The seam to a provider's bill: what it says that it has billed, by project and day."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import date
from decimal import Decimal


@dataclass(frozen=True)
class Billed:
    """What a project was billed for one day of UTC."""

    project_id: str
    day: date
    amount_usd: Decimal


class Bill(ABC):
    """The bill of the organization that the key of a connection belongs to."""

    @abstractmethod
    def costs(self, since: date, until: date) -> list[Billed]:
        """What was billed, by project and day. A day without costs is left out.

        :param until: the first day that is left out.
        :raises ProviderError: there is no valid answer. Asking again is safe.
        """
