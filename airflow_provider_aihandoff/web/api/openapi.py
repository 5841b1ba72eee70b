"""The OpenAPI description of the jobs API: what FastAPI reads off the routes, and what all routes have in common. Pure.

A route declares the answers that only it has. What guard, bounds and ledger can answer to any request is added here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from airflow_provider_aihandoff.web import event_stream
from airflow_provider_aihandoff.web.links import API_PREFIX

#: What every route can answer; what each that has something to read can; and each that has a body, or needs none.
_ANY = (401, 500, 503)
_PARAMETERS = (404, 422)
_POST = (400, 403, 408, 409, 413, 422)

#: The route that takes requests for jobs, and the one that answers how one stands.
_ASK, _REQUEST = "ask", "get_request"

_SAID: Mapping[int, str] = {
    400: "The body is not JSON, or the sender disconnected.",
    401: "You are not logged in.",
    403: "You may not do this, or the request comes from another site.",
    404: "There is none, or you may not see it.",
    408: "The body took too long to arrive.",
    409: "It cannot be done now. The detail says why.",
    413: "The body is too large.",
    422: "The request is not valid. `errors` names the fields.",
    429: "Too many requests.",
    500: "Something unexpected, which was logged.",
    503: "The ledger is unavailable, or too many connections follow something. Send the request again later.",
}
_SECONDS = {"schema": {"type": "integer", "minimum": 0}, "description": "Seconds after which to send it again."}
_HEADERS: Mapping[int, Mapping[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {"Retry-After": _SECONDS},
    503: {"Retry-After": _SECONDS},
}
_TAG = {"ETag": {"schema": {"type": "string"}, "description": "Send it as `If-None-Match`."}}

#: One event of a stream.
_EVENT = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
    "required": ["event", "data"],
    "description": "The fields of each event. `data` is JSON.",
}

#: What follows from an answer: the operation, and where its parameter stands in the answer.
_LINKS: Mapping[tuple[str, str], Mapping[str, Mapping[str, str]]] = {
    (_ASK, "202"): {
        _REQUEST: {"request_id": "$response.body#/request_id"},
        "cancel_job_request": {"request_id": "$response.body#/request_id"},
    },
    (_REQUEST, "200"): {
        "cancel_job_request": {"request_id": "$response.body#/request_id"},
        "get_job": {"job_id": "$response.body#/job_id"},
    },
    ("list_jobs", "200"): {"get_job": {"job_id": "$response.body#/jobs/0/job_id"}},
    ("get_job", "200"): {
        "get_revision": {"job_id": "$response.body#/job/job_id", "number": "$response.body#/revision/number"},
        "cancel": {"job_id": "$response.body#/job/job_id"},
    },
    ("begin_bulk", "200"): {
        "get_bulk": {"bulk_id": "$response.body#/bulk_id"},
        "run_bulk": {"bulk_id": "$response.body#/bulk_id"},
    },
    ("add_budget", "200"): {
        name: {"budget_id": "$response.body#/budget_id"}
        for name in ("get_budget", "change_budget", "raise_budget", "end_budget")
    },
    ("begin_pause", "200"): {"end_pause": {"pause_id": "$response.body#/pause_id"}},
    ("list_sets", "200"): {"get_set": {"set_id": "$response.body#/sets/0/set_id"}},
}


def described(schema: dict[str, Any]) -> dict[str, Any]:
    """The description of the API, with what all of its routes have in common.

    :param schema: as FastAPI has made it. It is changed.
    """
    components = schema["components"]
    components["securitySchemes"] = {
        "Bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "A token of Airflow's, from `POST /auth/token`.",
        }
    }
    for method, operation in _operations(schema):
        operation["security"] = [{"Bearer": []}]
        answers = operation["responses"]
        for status in sorted({*_ANY, *_of_shape(method, operation), *(int(each) for each in answers)}):
            if status >= 400:
                answers[str(status)] = _answer_of(status)
        _describe_answers(operation)
        operation["responses"] = dict(sorted(answers.items()))
    return schema


def _operations(schema: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for methods in schema["paths"].values():
        yield from methods.items()


def _of_shape(method: str, operation: Mapping[str, Any]) -> Iterator[int]:
    """The problems that an operation can answer since it has parameters, or is a ``POST``."""
    if operation.get("parameters"):
        yield from _PARAMETERS
    if method == "post":
        yield from _POST


def _answer_of(status: int) -> dict[str, Any]:
    said = {
        "description": _SAID.get(status) or f"{HTTPStatus(status).phrase}.",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    return said | ({"headers": dict(_HEADERS[status])} if status in _HEADERS else {})


def _describe_answers(operation: dict[str, Any]) -> None:
    """What FastAPI cannot read off a route: headers, answers without a body, events, and links."""
    name, answers = operation["operationId"], operation["responses"]
    parameters = {each["name"] for each in operation.get("parameters", ())}
    if "wait" in parameters:
        answers["200"]["headers"] = dict(_TAG)
        answers["304"] = {"description": "It is as `If-None-Match` names it.", "headers": dict(_TAG)}
        operation["parameters"].append(
            {
                "name": "If-None-Match",
                "in": "header",
                "required": False,
                "schema": {"type": "string"},
                "description": "The `ETag` of the answer that you have.",
            }
        )
    if "last-event-id" in parameters:
        answers["200"]["content"] = {event_stream.MEDIA_TYPE: {"schema": dict(_EVENT)}}
        answers["204"] = {"description": "You have the end of it: do not connect again."}
    if name == _ASK:
        where = {"schema": {"type": "string"}, "description": f"`{API_PREFIX}/requests/...`, where the request is."}
        answers["202"]["headers"] = {"Location": where}
    for (of, status), links in _LINKS.items():
        if of == name:
            answers[status]["links"] = {
                target: {"operationId": target, "parameters": dict(values)} for target, values in links.items()
            }
