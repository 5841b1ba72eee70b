"""OpenAI's webhook endpoints of a project, by its SDK: created, rotated and tested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from openai import OpenAI

from airflow_provider_aihandoff.core.generation.openai.failures import classify
from airflow_provider_aihandoff.core.generation.provider import ProviderError
from airflow_provider_aihandoff.core.generation.webhook_endpoints import Endpoint, WebhookEndpoints
from airflow_provider_aihandoff.core.webhooks.event_types import ended_batch_status, ended_status, is_safety_notice

#: Endpoints that are read at most.
_LIMIT = 1000

#: The event that a test sends.
TEST_EVENT = "response.completed"


class EndpointApi(WebhookEndpoints):
    """The endpoints of the project that a client's key belongs to.

    :param client: its own retries are switched off here: a second create would make a second endpoint.
    """

    def __init__(self, client: OpenAI) -> None:
        self._webhooks: Any = client.with_options(max_retries=0).webhooks

    def endpoints(self) -> list[Endpoint]:
        """As :meth:`WebhookEndpoints.endpoints`."""
        with _asking("The endpoints are not known."):
            return [_read(found) for found in islice(self._webhooks.list(), _LIMIT)]

    def create(self, name: str, url: str) -> tuple[Endpoint, str]:
        """As :meth:`WebhookEndpoints.create`."""
        with _asking("See the project's webhooks at OpenAI before you try again: the endpoint may be there."):
            visible = self._webhooks.event_types.list().data
            wanted = [event for event in visible if _is_wanted(event)]
            created = self._webhooks.create(event_types=wanted, name=name, url=url)
            return _read(created), str(created.signing_secret)

    def rotate(self, endpoint_id: str) -> str:
        """As :meth:`WebhookEndpoints.rotate`."""
        with _asking("Try again if the secret is not known to you: the one before the last may be invalid then."):
            rotated = self._webhooks.rotate_secret(endpoint_id, keep_old_secret_active_for_24_hours=True)
            return str(rotated.signing_secret)

    def test(self, endpoint_id: str) -> int:
        """As :meth:`WebhookEndpoints.test`."""
        with _asking("Check that the address can be reached from the internet."):
            return int(self._webhooks.test(endpoint_id, event_type=TEST_EVENT).status_code)


@contextmanager
def _asking(remedy: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        written = "No secret was changed in Airflow."
        raise ProviderError(f"{classify(error).reason}.", written=written, remedy=remedy) from error


def _read(found: Any) -> Endpoint:
    return Endpoint(found.id, found.name, found.url, tuple(found.event_types))


def _is_wanted(event: str) -> bool:
    """Whether an event says that a response or a batch has ended, or is a safety notice."""
    ends = ended_status(event) is not None or ended_batch_status(event) is not None
    return ends or is_safety_notice(event)
