"""The seam to a provider's webhook endpoints: created, rotated and tested."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """An endpoint, without its secret, which the provider shows once."""

    endpoint_id: str
    name: str
    url: str
    event_types: tuple[str, ...]


class WebhookEndpoints(ABC):
    """The endpoints of the project that the key of a connection belongs to."""

    @abstractmethod
    def endpoints(self) -> list[Endpoint]:
        """The endpoints that there are.

        :raises ProviderError: there is no valid answer.
        """

    @abstractmethod
    def create(self, name: str, url: str) -> tuple[Endpoint, str]:
        """Create an endpoint for the ends of responses, and for safety notices where the project has them.

        :return: the endpoint, and its signing secret.
        :raises ProviderError: it may have been created, or was refused; the message has the provider's words.
        """

    @abstractmethod
    def rotate(self, endpoint_id: str) -> str:
        """Give an endpoint a new secret, and return it. The one before stays valid for a day.

        :raises ProviderError: it may have been rotated, or was refused.
        """

    @abstractmethod
    def test(self, endpoint_id: str) -> int:
        """Have the provider send a sample event to an endpoint.

        :return: the status that the endpoint answered with.
        :raises ProviderError: the provider got no answer from it, or refused.
        """
