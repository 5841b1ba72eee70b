"""The same work as it is done without this package: a task that calls, and is tried again when it fails.

- ``requests``: the OpenAI SDK, and ``requests.post`` with its usual retries.
- ``operators``: Airflow's own ``OpenAIResponseOperator``, followed by its ``HttpOperator``.
- ``agents``: the ``AgentOperator`` of Airflow's common-ai provider at its safest, with ``durable=True``: a retry takes
  what its journal has instead of asking again. Its ``HttpOperator`` after it, too.

All write to a target that cannot be asked what it has written, and to the database with an INSERT.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.openai.hooks.openai import OpenAIHook
from airflow.providers.openai.operators.openai import OpenAIResponseOperator
from airflow.providers.postgres.hooks.postgres import PostgresHook

from chaos.attempts import DONE, RETRY_SECONDS, Attempt, Outcome
from chaos.effects import COLLECTIONS
from chaos.world import AGENTS, DATABASE, OPENAI, TARGET, World

_AGENT_MODEL = "openai-responses:gpt-5.2"

#: The tasks of a run, in their order, by the way to do it.
PIPELINES = {
    way: tuple(f"{way}: {task}" for task in ("draft", "create", "label", "store"))
    for way in ("requests", "operators", "agents")
}


def can_run(way: str) -> bool:
    """Whether what a way needs is installed: the common-ai provider makes every start of Airflow slower."""
    return way != "agents" or find_spec("airflow.providers.common.ai") is not None


def warm_up() -> None:
    """Import what an attempt needs, without opening a connection."""
    if can_run("agents"):
        from airflow.providers.common.ai.hooks.pydantic_ai import PydanticAIHook
        from airflow.providers.common.ai.operators import agent  # noqa: F401

        PydanticAIHook.get_hook(AGENTS, hook_params={"model_id": _AGENT_MODEL}).get_conn()


def run(world: World, attempt: Attempt) -> Outcome:
    """Make one attempt. Whatever it raises, Airflow tries again."""
    try:
        STEPS[attempt.step](world, attempt)
    except Exception as error:  # noqa: BLE001 - as said
        return Outcome("retry", RETRY_SECONDS, f"{type(error).__name__}: {error}")
    return DONE


def _ask(world: World, attempt: Attempt) -> None:
    with OpenAIHook(OPENAI).conn as client:
        once = client.with_options(max_retries=0, timeout=30)
        once.responses.create(model="gpt-5.2", input=_input(attempt), metadata=_metadata(attempt))


def _post(world: World, attempt: Attempt) -> None:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retry = Retry(3, backoff_factor=0.1, status_forcelist=[429, 500, 502, 503, 504], allowed_methods=None)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        collection = COLLECTIONS[attempt.step.rpartition(" ")[2]]
        url = f"{world.target_url}/neither/{collection}"
        session.post(url, json={"name": attempt.work.key}, timeout=world.call_timeout).raise_for_status()


def _ask_by_operator(world: World, attempt: Attempt) -> None:
    kwargs = {"metadata": _metadata(attempt)}
    operator = OpenAIResponseOperator(
        task_id="draft", conn_id=OPENAI, input_text=_input(attempt), model="gpt-5.2", response_kwargs=kwargs
    )
    context: Any = {"ti": SimpleNamespace(try_number=attempt.number, xcom_push=lambda **_: None)}
    operator.execute(context)


def _ask_by_agent(world: World, attempt: Attempt) -> None:
    from airflow.providers.common.ai.durable.storage import DurableStorage
    from airflow.providers.common.ai.operators.agent import AgentOperator

    journals = Path(os.environ["AIRFLOW_HOME"]) / "journals"
    os.environ["AIRFLOW__COMMON_AI__DURABLE_CACHE_PATH"] = journals.as_uri()
    operator = AgentOperator(
        task_id="draft",
        llm_conn_id=AGENTS,
        model_id=_AGENT_MODEL,
        prompt=_input(attempt),
        durable=True,
        agent_params={"model_settings": {"extra_body": {"metadata": _metadata(attempt)}}},
    )
    task: dict[str, Any] = {"dag_id": "chaos", "task_id": "draft", "run_id": attempt.work.key, "map_index": -1}
    # Where it has its journal before Airflow 3.3. Later it is a table of Airflow's, and there is none here.
    operator._build_durable_storage = lambda context: DurableStorage(**task)
    ti = SimpleNamespace(
        **task, id=f"{attempt.work.key}-{attempt.number}", try_number=attempt.number, xcom_push=lambda **_: None
    )
    operator.execute({"ti": ti, "task_instance": ti})


def _post_by_operator(world: World, attempt: Attempt) -> None:
    import json

    collection = COLLECTIONS[attempt.step.rpartition(" ")[2]]
    HttpOperator(
        task_id=collection,
        http_conn_id=TARGET,
        endpoint=f"/neither/{collection}",
        data=json.dumps({"name": attempt.work.key}),
        headers={"Content-Type": "application/json"},
        extra_options={"timeout": world.call_timeout},
    ).execute({})


def _insert(world: World, attempt: Attempt) -> None:
    PostgresHook(DATABASE).run("INSERT INTO chaos_rows (name) VALUES (%s)", parameters=[attempt.work.key])


def _input(attempt: Attempt) -> str:
    return f"Write the note {attempt.work.key}."


def _metadata(attempt: Attempt) -> dict[str, str]:
    return {"standin": attempt.work.model, "work": attempt.work.key}


STEPS: Mapping[str, Callable[[World, Attempt], Any]] = {
    "requests: draft": _ask,
    "requests: create": _post,
    "requests: label": _post,
    "requests: store": _insert,
    "operators: draft": _ask_by_operator,
    "operators: create": _post_by_operator,
    "operators: label": _post_by_operator,
    "operators: store": _insert,
    "agents: draft": _ask_by_agent,
    "agents: create": _post_by_operator,
    "agents: label": _post_by_operator,
    "agents: store": _insert,
}
