"""From a response that has ended to what the ledger stores of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.error_text import cleaned
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.states import ResponseStatus

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True)
class Output:
    """What a response that ended has left.

    :param output: the parsed output, or its text; None when there is none that can be used.
    :param error: why there is none, with the text that there was.
    :param cost_usd: None when the price is unknown.
    """

    status: str
    output: Any = None
    error: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    cost_usd: Decimal | None = None


def read_output(
    response: ModelResponse, output_type: type[BaseModel] | None, cost_usd: Decimal | None
) -> tuple[Output, str]:
    """What a response that has ended leaves, and as text why there is no output, where there is none.

    :param cost_usd: its price; None where that is unknown.
    """
    billed: dict[str, Any] = {"usage": response.usage, "cost_usd": cost_usd}
    error: dict[str, Any]
    if response.status is not ResponseStatus.COMPLETED:
        error, why = _ended_badly(response)
    elif response.refusal is not None:
        error, why = {"kind": "refusal", "text": response.refusal}, "the model refused"
    elif not response.text:
        error, why = {"kind": "empty"}, "the response completed without a text"
    elif output_type is None:
        return Output(response.status, response.text, **billed), ""
    else:
        try:
            parsed = output_type.model_validate_json(response.text).model_dump(mode="json")
            canonical_json(parsed)  # refuses NaN and infinity, which Pydantic reads
        except ValueError as mismatch:
            problems = _problems(mismatch)
            error = {"kind": "mismatch", "text": response.text, "problems": problems}
            why = f"the output does not match {output_type.__name__}: {len(problems)} problems"
        else:
            return Output(response.status, parsed, **billed), ""
    if response.is_final:
        error["final"] = True
    return Output(response.status, error=error, **billed), why


def is_final(error: dict[str, Any]) -> bool:
    """Whether the same request would fail again the same way, so that another revision would only cost.

    :param error: of a revision that failed, as the ledger has it.
    """
    return bool(error.get("final", False))


def _problems(mismatch: ValueError) -> list[Any]:
    if isinstance(mismatch, ValidationError):
        return mismatch.errors(include_url=False, include_context=False, include_input=False)
    return [{"msg": str(mismatch)}]


def _ended_badly(response: ModelResponse) -> tuple[dict[str, Any], str]:
    """The error of a response that failed, was cancelled, or stopped early."""
    text = response.text or ""
    if response.status is ResponseStatus.FAILED:
        code, message = response.error_code or "unknown", cleaned(response.error_message or "")
        return {"kind": "failed", "code": code, "message": message, "text": text}, f"OpenAI: {code}: {message}"
    if response.status is ResponseStatus.INCOMPLETE:
        code = response.incomplete_reason or "unknown"
        return {"kind": "incomplete", "code": code, "text": text}, f"the response is incomplete: {code}"
    return {"kind": "cancelled", "text": text}, "the response was cancelled at OpenAI"
