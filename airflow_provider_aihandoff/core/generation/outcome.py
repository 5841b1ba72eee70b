"""From a response that has ended to what the ledger stores of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from airflow_provider_aihandoff.core import strict_json
from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.error_text import cleaned
from airflow_provider_aihandoff.core.states import ResponseStatus
from airflow_provider_aihandoff.core.text import plain

if TYPE_CHECKING:
    from pydantic import BaseModel

    from airflow_provider_aihandoff.core.generation.provider import ModelResponse

#: A text that is one block of Markdown code as a whole.
_FENCE = re.compile(r"\s*```[ \t]*(?:json)?[ \t]*\r?\n(.*?)\r?\n?```\s*", re.DOTALL | re.IGNORECASE)

#: How many of the problems of an output are said in words, and in how many characters each.
_SAID, _SAID_LENGTH = 5, 200


@dataclass(frozen=True)
class Output:
    """What a response that ended has left.

    :param status: with which it ended; None where there was no response.
    :param output: the parsed output, or its text; None when there is none that can be used.
    :param error: why there is none, with the text that there was.
    :param cost_usd: None when the price is unknown.
    """

    status: ResponseStatus | None
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
    elif response.calls:
        error = {"kind": "tool call", "tools": list(response.calls)}
        why = f"the model asked for a tool that a job cannot run for it: {', '.join(response.calls)}"
    elif not response.text:
        error, why = {"kind": "empty"}, "the response completed without a text"
    elif output_type is None:
        return Output(response.status, response.text, **billed), ""
    else:
        said = _json_of(response)
        try:
            strict_json.loads(said)  # refuses what Pydantic reads and the ledger cannot keep, such as NaN
            parsed = as_stored(output_type.model_validate_json(said))
        except ValueError as mismatch:
            problems = _problems(mismatch)
            error = {"kind": "mismatch", "text": response.text, "problems": problems}
            why = f"the output does not match {output_type.__name__}: {in_words(problems)}"
        else:
            if unreadable := problems_with(output_type, parsed):
                error = {"kind": "output type", "text": response.text, "problems": unreadable, "final": True}
                why = f"{output_type.__name__} does not read what it has written: {in_words(unreadable)}"
            else:
                return Output(response.status, parsed, **billed), ""
    if response.is_final:
        error["final"] = True
    return Output(response.status, error=error, **billed), why


def as_stored(value: BaseModel) -> Any:
    """The JSON of an output: by the names that its type reads, and without what the type computes."""
    return value.model_dump(mode="json", by_alias=True, round_trip=True)


def problems_with(output_type: type[BaseModel], output: Any) -> list[dict[str, Any]]:
    """What an output type finds wrong with an output as it is stored. Empty where it takes it."""
    try:
        output_type.model_validate_json(canonical_json(output))
    except ValueError as mismatch:
        return _problems(mismatch)
    return []


def in_words(problems: Sequence[Mapping[str, Any]]) -> str:
    """The first problems of an output as one line: each field, and what is wrong with it."""
    said = [f"{'.'.join(map(str, each.get('loc', ()))) or 'output'}: {each['msg']}" for each in problems[:_SAID]]
    more = [f"and {len(problems) - _SAID} more"] if len(problems) > _SAID else []
    return "; ".join([*(" ".join(plain(part).split())[:_SAID_LENGTH] for part in said), *more])


def is_final(error: dict[str, Any]) -> bool:
    """Whether the same request would fail again the same way, so that another revision would only cost.

    :param error: of a revision that failed, as the ledger has it.
    """
    return bool(error.get("final", False))


def _json_of(response: ModelResponse) -> str:
    """The JSON in an answer: its text, or its last message, and within a block of code where that is all there is.

    An answer may come in several messages, of which each is a whole one: a draft, and then the final one.
    """
    for text in (response.text, response.last_message):
        found = _FENCE.fullmatch(text or "")
        bare = found[1] if found else text or ""
        try:
            strict_json.loads(bare)
        except strict_json.NotJson:
            continue
        return bare
    return response.text or ""


def _problems(mismatch: ValueError) -> list[dict[str, Any]]:
    if isinstance(mismatch, ValidationError):
        found = mismatch.errors(include_url=False, include_context=False, include_input=False)
        return [dict(each) for each in found]
    return [{"loc": [], "msg": str(mismatch)}]


def _ended_badly(response: ModelResponse) -> tuple[dict[str, Any], str]:
    """The error of a response that failed, was cancelled, or stopped early."""
    text = response.text or ""
    if response.status is ResponseStatus.FAILED:
        code, message = response.error_code or "unknown", cleaned(response.error_message or "")
        error = {"kind": "failed", "code": code, "message": message, "text": text}
        return error | ({"spent": True} if response.is_spent else {}), f"OpenAI: {code}: {message}"
    if response.status is ResponseStatus.INCOMPLETE:
        code = response.incomplete_reason or "unknown"
        return {"kind": "incomplete", "code": code, "text": text}, f"the response is incomplete: {code}"
    return {"kind": "cancelled", "text": text}, "the response was cancelled at OpenAI"
