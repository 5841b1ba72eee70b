"""The request that has the model change its own output."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_aihandoff.core.generation.openai.continuation import continued
from airflow_provider_aihandoff.core.models import Revision
from airflow_provider_aihandoff.core.states import RevisionState

REQUEST = {"model": "gpt-5.2", "input": "Write about the kettle.", "instructions": "Be brief.", "text": {"format": {}}}
WORDS = "Requested changes: Shorter.\n\nAnswer again in full, in the same form as before."
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def revision(output: Any = "A kettle.", author_kind: str = "model", response_id: str | None = "resp_1") -> Revision:
    nothing: dict[str, Any] = dict.fromkeys(Revision.__dataclass_fields__)
    nothing |= {
        "state": RevisionState.COMPLETED,
        "author_kind": author_kind,
        "output": output,
        "response_id": response_id,
    }
    return Revision(**nothing)


def test_a_continuation_goes_on_from_the_response_with_everything_else_unchanged() -> None:
    request = continued(REQUEST, changes="Shorter.", before=revision(), response_id="resp_1")
    assert request == {
        **REQUEST,
        "input": [{"role": "user", "content": WORDS}],
        "previous_response_id": "resp_1",
    }


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("Write about the kettle.", [{"role": "user", "content": "Write about the kettle."}]),
        ([{"role": "developer", "content": "x"}], [{"role": "developer", "content": "x"}]),
    ],
)
def test_a_continuation_without_its_response_sends_the_whole_text(asked: Any, first: list[Any]) -> None:
    request = continued({**REQUEST, "input": asked}, changes="Shorter.", before=revision(), response_id=None)
    answered = {"role": "assistant", "content": "A kettle."}
    assert request["input"] == [*first, answered, {"role": "user", "content": WORDS}]
    assert "previous_response_id" not in request


def test_a_continuation_includes_the_output_as_a_person_edited_it() -> None:
    edited = revision({"title": "Ü"}, author_kind="user", response_id=None)
    told = continued(REQUEST, changes="Shorter.", before=edited, response_id="resp_1")["input"]
    assert told == [
        {"role": "user", "content": f'A person has edited your answer. It is now:\n\n{{"title": "Ü"}}\n\n{WORDS}'}
    ]
    whole = continued(REQUEST, changes="Shorter.", before=edited, response_id=None)["input"]
    assert whole[1:] == [{"role": "assistant", "content": '{"title": "Ü"}'}, {"role": "user", "content": WORDS}]


def test_a_conversation_that_openai_keeps_is_continued_without_a_response_id() -> None:
    request = continued(
        {**REQUEST, "conversation": "conv_1"}, changes="Shorter.", before=replace(revision()), response_id="resp_1"
    )
    assert request == {**REQUEST, "conversation": "conv_1", "input": [{"role": "user", "content": WORDS}]}
