"""What OpenLineage gets, as its own client sends it, and as Airflow's provider asks for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from airflow.providers.openlineage.extractors.base import DefaultExtractor
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from openlineage.client.serde import Serde

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import EffectState
from airflow_provider_aihandoff.hooks.ledger import LedgerHook
from airflow_provider_aihandoff.operators import lineage
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator

OUTPUT = {"title": "A secret kettle"}


def revision(number: int, author_kind: str, **values: Any) -> Any:
    defaults = {"model": "gpt-5.2", "output": OUTPUT, "output_digest": f"d{number}", "response_id": f"resp_{number}"}
    return SimpleNamespace(number=number, author_kind=author_kind, **{**defaults, **values})


def decision(who: str, verdict: str = "approve", **values: Any) -> Any:
    defaults = {"digest": "asked", "voided_at": None, "decided_by_kind": "user"}
    return SimpleNamespace(verdict=verdict, decider=SimpleNamespace(label=who), **{**defaults, **values})


def effect(name: str, state: EffectState, external_id: str | None = None) -> Any:
    return SimpleNamespace(
        name=name,
        task_id="publish" if name.startswith("publish") else name,
        kind="http",
        conn_id="cms",
        state=state,
        external_id=external_id,
        plan={"body": OUTPUT},
    )


def record(**values: Any) -> Any:
    by_model, edited = revision(1, "model"), revision(2, "user", model=None, response_id=None)
    job = SimpleNamespace(
        job_id=7,
        job_type="note",
        job_key="kettle",
        revision=2,
        input={"input": "Write about the secret kettle."},
        input_digest="asked for",
        review_digest="asked",
    )
    defaults = {
        "job": job,
        "revisions": [by_model, edited],
        "revision": edited,
        "decisions": [
            decision("alice (7)"),
            decision("bob", verdict="request changes"),
            decision("carol", digest="an earlier one"),
            decision("dave", voided_at=datetime.now(UTC)),
        ],
        "current_effects": [effect("publish", EffectState.APPLIED, "post-17"), effect("mail", EffectState.PLANNED)],
    }
    return SimpleNamespace(**{**defaults, **values})


def sent(facets: dict[str, Any]) -> dict[str, Any]:
    """The facets of a run, as the client sends them."""
    run = Run("01890a5d-ac96-774b-bcce-b302099a8057", facets=facets)
    event = RunEvent(
        eventType=RunState.COMPLETE,
        eventTime=datetime.now(UTC).isoformat(),
        run=run,
        job=Job("airflow", "note.publish"),
        producer="https://example.com/producer",
    )
    found: dict[str, Any] = json.loads(Serde.to_json(event))["run"]["facets"]
    return {
        name: {key: value for key, value in facet.items() if not key.startswith("_")} for name, facet in found.items()
    }


def test_a_draft_names_its_model_and_digests_and_nothing_of_the_texts() -> None:
    told = sent({"aihandoff_draft": lineage.draft_facet(record())})
    assert told["aihandoff_draft"] == {
        "jobId": 7,
        "jobType": "note",
        "jobKey": "kettle",
        "revision": 1,
        "model": "gpt-5.2",
        "promptDigest": "asked for",
        "outputDigest": "d1",
        "responseId": "resp_1",
    }


def test_an_effect_names_its_target_its_record_and_those_whose_approval_counts() -> None:
    told = sent({"aihandoff_effects": lineage.effects_facet(record(), "publish")})
    assert told["aihandoff_effects"] == {
        "jobId": 7,
        "jobType": "note",
        "jobKey": "kettle",
        "revision": 2,
        "outputDigest": "d2",
        "approvers": [{"kind": "user", "name": "alice (7)"}],
        "effects": [
            {"name": "publish", "target": "http", "connection": "cms", "state": "applied", "externalId": "post-17"}
        ],
    }


def test_a_list_of_effects_is_bounded() -> None:
    many = [effect(f"publish[{number}]", EffectState.APPLIED, str(number)) for number in range(150)]
    assert len(lineage.effects_facet(record(current_effects=many), "publish").effects) == 100


@pytest.fixture
def _ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = MagicMock(spec=Ledger)
    ledger.__enter__.return_value.record.side_effect = lambda job_id: record() if job_id == 7 else None
    monkeypatch.setattr(LedgerHook, "get_conn", lambda self: ledger)


def draft() -> OpenAIBackgroundResponseOperator:
    return OpenAIBackgroundResponseOperator(task_id="draft", model="gpt-5.2", input="Write.")


def publish(job: Any) -> HttpSideEffectOperator:
    return HttpSideEffectOperator(task_id="publish", job=job, http_conn_id="cms", endpoint="/posts")


@pytest.mark.usefixtures("_ledger")
def test_airflows_provider_takes_them_from_the_operators() -> None:
    made = draft()
    made.made = {"job_id": 7}
    for task, name in ((made, "aihandoff_draft"), (publish({"job_id": 7}), "aihandoff_effects")):
        told = DefaultExtractor(task).extract_on_complete(MagicMock())
        assert told is not None
        assert list(told.run_facets) == [name]


@pytest.mark.usefixtures("_ledger")
@pytest.mark.parametrize("task", [draft(), publish({"set_id": 3}), publish(None)], ids=["no job", "a set", "none"])
def test_a_task_without_a_job_of_its_own_tells_nothing(task: Any) -> None:
    assert DefaultExtractor(task).extract_on_complete(MagicMock()) is None
