"""Takes the output of a lost request from the provider's handle, a conversation that was made for its revision alone.

While a response runs in it, the provider refuses another one; what has ended stands in its items. So it is asked, not
guessed, whether a lost request was accepted, however long the model thinks and without webhooks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.generation.outcome import read_output
from airflow_provider_aihandoff.core.generation.provider import ModelProvider, ModelResponse

if TYPE_CHECKING:
    from pydantic import BaseModel

    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Actor, Revision


def ended_in(provider: ModelProvider, handle: str) -> ModelResponse | None:
    """The response that has ended in a handle; None where none has.

    :raises ProviderError: there is no valid answer.
    """
    reached("submit.handle", "before call")
    response = provider.read_handle(handle)
    reached("submit.handle", "after call")
    return response


def take_from_handle(
    ledger: Ledger,
    provider: ModelProvider,
    revision: Revision,
    *,
    output_type: type[BaseModel] | None,
    actor: Actor,
) -> bool:
    """Store the output of a lost request, if its response has ended in the handle. True where there is nothing to wait
    for any longer.

    Its id and its usage are not known: they come with its webhook, where there is one.

    :raises ProviderError: OpenAI could not be asked.
    """
    if not revision.is_lost or revision.conversation_id is None:
        return False
    response = ended_in(provider, revision.conversation_id)
    if response is None:
        return False
    output, why = read_output(response, output_type, None)
    ledger.outputs.store_found(revision.job_id, revision.number, output, actor=actor, reason=why or None)
    return True
