"""The request that has the model change its own output, as a reviewer asks. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.models import Revision


def continued(request: Mapping[str, Any], *, changes: str, before: Revision, response_id: str | None) -> dict[str, Any]:
    """A request for another version of an output.

    :param request: the one that asked for the work.
    :param changes: what the reviewer wants changed, in their words.
    :param before: the revision that they reviewed.
    :param response_id: the response that the model goes on from; None where OpenAI no longer has it, and the
        whole conversation is sent again.
    """
    known = before.author_kind == "model" or response_id is None
    edited = "" if known else f"A person has edited your answer. It is now:\n\n{_text(before.output)}\n\n"
    wanted = f"Requested changes: {changes}\n\nAnswer again in full, in the same form as before."
    said = {"role": "user", "content": f"{edited}{wanted}"}
    if "conversation" in request:  # OpenAI keeps it, and takes no response id with it
        return {**request, "input": [said]}
    if response_id is not None:
        return {**request, "input": [said], "previous_response_id": response_id}
    asked = request.get("input")
    first = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked or ())
    return {**request, "input": [*first, {"role": "assistant", "content": _text(before.output)}, said]}


def _text(output: Any) -> str:
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
