"""Reads what a response says: whether it ended, what it answered, and what it cost. Pure.

A response is read defensively: servers answer with pages of HTML, null outputs, other ids and states of the future.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.generation.openai.pricing import price, read_usage
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES

if TYPE_CHECKING:
    from pydantic import BaseModel

log = logging.getLogger(__name__)

PENDING_STATUSES = frozenset({"queued", "in_progress"})

#: Error codes and reasons with which the same request would end the same way.
FINAL_ERROR_CODES = frozenset({"invalid_prompt", "content_filter", "refusal", "image_content_policy_violation"})


def terminal_status(response: Any, response_id: str) -> str | None:
    """The status of a response that has ended; None while it has not, or where the answer is not to be believed.

    :param response_id: the id that was asked for.
    """
    if getattr(response, "id", None) != response_id:
        log.warning("Asked for the response %s, got something else; asking again.", response_id)
        return None
    status = getattr(response, "status", None)
    if status in ENDED_RESPONSE_STATUSES:
        return str(status)
    if status not in PENDING_STATUSES:
        log.warning("The response %s has a status that is not known here: %r; waiting on.", response_id, status)
    return None


def read_output(response: Any, output_type: type[BaseModel] | None, request: dict[str, Any]) -> tuple[Output, str]:
    """What a response that has ended leaves, and in words why there is no output, where there is none.

    :param request: the request that was sent; it says how the response is priced.
    """
    usage = read_usage(response)
    billed: dict[str, Any] = {"usage": usage, "cost_usd": price(response, request)}
    status = response.status
    error: dict[str, Any]
    text, refusal = _final_text(response)
    if status != "completed":
        error, why = _ended_badly(response, text)
    elif refusal is not None:
        error, why = {"kind": "refusal", "text": refusal}, "the model refused"
    elif not text:
        error, why = {"kind": "empty"}, "the response completed without a text"
    elif output_type is None:
        return Output(status, text, **billed), ""
    else:
        try:
            parsed = output_type.model_validate_json(text).model_dump(mode="json")
            canonical_json(parsed)  # refuses NaN and infinity, which Pydantic reads
        except ValueError as mismatch:
            problems = _problems(mismatch)
            error = {"kind": "mismatch", "text": text, "problems": problems}
            why = f"the output does not match {output_type.__name__}: {len(problems)} problems"
        else:
            return Output(status, parsed, **billed), ""
    return Output(status, error=error, **billed), why


def _problems(mismatch: ValueError) -> list[Any]:
    if isinstance(mismatch, ValidationError):
        return mismatch.errors(include_url=False, include_context=False, include_input=False)
    return [{"msg": str(mismatch)}]


def _ended_badly(response: Any, text: str) -> tuple[dict[str, Any], str]:
    """The error of a response that failed, was cancelled, or stopped half-way."""
    if response.status == "failed":
        code = getattr(response.error, "code", None) or "unknown"
        message = getattr(response.error, "message", None) or ""
        return {"kind": "failed", "code": code, "message": message, "text": text}, f"OpenAI: {code}: {message}"
    if response.status == "incomplete":
        code = getattr(response.incomplete_details, "reason", None) or "unknown"
        return {"kind": "incomplete", "code": code, "text": text}, f"the response is incomplete: {code}"
    return {"kind": "cancelled", "text": text}, "the response was cancelled at OpenAI"


def is_final(error: dict[str, Any]) -> bool:
    """Whether the same request would fail again the same way, so that another revision would only cost."""
    return error.get("kind") == "refusal" or error.get("code") in FINAL_ERROR_CODES


def _final_text(response: Any) -> tuple[str, str | None]:
    """The text of the final answer, and the refusal if there is one. Comments on the way to it are left out."""
    texts: list[str] = []
    refusal: str | None = None
    for item in response.output or ():
        if getattr(item, "type", None) != "message" or getattr(item, "phase", None) not in (None, "final_answer"):
            continue
        for part in getattr(item, "content", None) or ():
            if getattr(part, "type", None) == "output_text":
                texts.append(str(getattr(part, "text", None) or ""))
            elif getattr(part, "type", None) == "refusal":
                refusal = str(getattr(part, "refusal", None) or "")
    return "".join(texts), refusal
