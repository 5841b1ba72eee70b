"""The package that docs/targets.md shows adds a kind: what stands there is installed and used."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects import target_registry
from airflow_provider_aihandoff.core.effects.describe import describe
from airflow_provider_aihandoff.core.effects.undo import undo_plan, undo_target, why_not
from airflow_provider_aihandoff.core.models import Effect
from airflow_provider_aihandoff.core.states import EffectState

PAGE = Path(__file__).parents[3].joinpath("docs", "targets.md").read_text("utf-8")


def block(language: str, begins: str) -> str:
    """The code block of the page that has this text in it."""
    return next(str(code) for code in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if begins in code)


@pytest.fixture
def acme_sms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the package, installed."""
    project = tomllib.loads(block("toml", "acme-airflow-sms"))["project"]
    (tmp_path / "acme_sms.py").write_text(block("python", "class SmsTarget"))
    folder = tmp_path / "acme_airflow_sms-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    ((group, points),) = project["entry-points"].items()
    (folder / "entry_points.txt").write_text(
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield __import__("acme_sms")
    sys.modules.pop("acme_sms")
    forget()


def forget() -> None:
    target_registry._registered.cache_clear()
    target_registry.target_type.cache_clear()


def test_a_target_of_another_package_plans_describes_and_undoes_and_its_operator_makes_it(
    acme_sms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: Any = SimpleNamespace(job_id=1)
    declared = {"text": "Please ignore {external_id}."}
    task = acme_sms.SmsSideEffectOperator(task_id="announce", job=1, number="+1", text="It boils.", undo=declared)
    plan = task.effect_plan(job, key="the key", after=())
    assert (plan.kind, plan.plan) == ("sms", {"connection": "sms", "number": "+1", "text": "It boils."})
    view = describe(plan.kind, plan.shown)
    assert (view.action, view.address, view.bodies, view.rest) == (
        "SMS",
        "+1",
        {"Text": "It boils."},
        {"connection": "sms"},
    )
    fields: dict[str, Any] = dict.fromkeys(Effect.__dataclass_fields__)
    own = {"name": "announce", "effect_key": "aih-1", "state": EffectState.APPLIED, "external_id": "m-7"}
    effect = Effect(**{**fields, **own, "kind": plan.kind, "undo": json.loads(json.dumps(plan.undo))})
    assert why_not(effect) is None
    undo = undo_plan(effect, None)
    assert undo.plan == {"connection": "sms", "number": "+1", "text": "Please ignore m-7."}

    sent: list[Any] = []
    answer = SimpleNamespace(status_code=201, json=lambda: {"id": "m-8"})

    def call(*request: Any, **parts: Any) -> Any:
        sent.append((request, parts))
        return answer

    monkeypatch.setattr(acme_sms, "call", call)
    applied = undo_target(undo).apply(undo.plan, "aih-2")
    assert applied.external_id == "m-8"
    assert sent[0][1]["json"] == {"to": "+1", "text": "Please ignore m-7.", "reference": "aih-2"}
