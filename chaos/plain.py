"""The same work as it is done without this package: a task that calls, and is tried again when it fails.

- ``requests``: the OpenAI SDK, and ``requests.post`` with its usual retries.
- ``operators``: Airflow's own ``OpenAIResponseOperator``, followed by its ``HttpOperator``.

Both write to a target that tells nobody what it has written, and to the database with an INSERT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.openai.operators.openai import OpenAIResponseOperator
from airflow.providers.postgres.hooks.postgres import PostgresHook

from airflow_provider_aihandoff.hooks.openai import clients
from chaos.attempts import COLLECTIONS, DONE, RETRY_SECONDS, Attempt, Outcome
from chaos.world import DATABASE, OPENAI, TARGET, World

#: The tasks of a run, in their order, by the way to do it.
PIPELINES = {
    way: tuple(f"{way}: {task}" for task in ("draft", "create", "label", "store")) for way in ("requests", "operators")
}


def run(world: World, attempt: Attempt) -> Outcome:
    """Make one attempt. Whatever it raises, Airflow tries again."""
    try:
        STEPS[attempt.step](world, attempt)
    except Exception as error:  # noqa: BLE001 - as said
        return Outcome("retry", RETRY_SECONDS, f"{type(error).__name__}: {error}")
    return DONE


def _ask(world: World, attempt: Attempt) -> None:
    with clients() as client_of:
        client_of(OPENAI).responses.create(model="gpt-5.2", input=_input(attempt), metadata=_metadata(attempt))


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
}
