"""Functions that write to the CMS, beside the Dags, so that a worker that rolls back can import them."""

from __future__ import annotations

from airflow_provider_aihandoff.decorators.side_effect import rollback_function


def put_post(slug: str, title: str, body: str, effect_key: str) -> str:
    return str(_call("PUT", slug, effect_key, {"title": title, "body": body})["id"])


@rollback_function
def remove_post(slug: str, effect_key: str) -> None:
    _call("DELETE", slug, effect_key, None)


def _call(method: str, slug: str, effect_key: str, content: dict[str, str] | None) -> dict[str, str]:
    from airflow.providers.http.hooks.http import HttpHook

    answer = HttpHook(method, http_conn_id="cms").run(
        f"/posts/{slug}",
        json=content,
        headers={"Idempotency-Key": effect_key},
    )
    content_of: dict[str, str] = answer.json()
    return content_of
