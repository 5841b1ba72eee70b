"""Builds the app that Airflow's API server mounts, and the one that receives webhooks alone."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from psycopg import OperationalError
from starlette.exceptions import HTTPException

from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.version import __version__
from airflow_provider_aihandoff.web.api import (
    budget_routes,
    bulk_routes,
    event_routes,
    limit_routes,
    pause_routes,
    request_routes,
    routes,
    set_routes,
    webhook_receiver,
)
from airflow_provider_aihandoff.web.api.openapi import described
from airflow_provider_aihandoff.web.api.webhook_receiver import Receiver
from airflow_provider_aihandoff.web.pages import (
    budgets_page,
    bulk_action,
    bulk_review,
    decision_link_page,
    doctor_page,
    inbox_page,
    job_actions,
    job_list,
    job_search,
    job_text,
    limits_page,
    overview_page,
    pause_page,
    request_page,
    revisions,
    set_pages,
    spending_page,
)
from airflow_provider_aihandoff.web.problems import Shield, answer_program, handle


def build_app() -> FastAPI:
    """The review pages, the jobs API and the receiver. Its own schema and docs pages are off: they would be public."""
    app = _new_app(Receiver())
    app.include_router(bulk_routes.router)
    app.include_router(budget_routes.router)
    app.include_router(pause_routes.router)
    app.include_router(limit_routes.router)
    app.include_router(event_routes.router)
    app.include_router(set_routes.router)
    app.include_router(request_routes.router)
    app.include_router(routes.router)
    app.include_router(webhook_receiver.router)
    app.include_router(bulk_review.router)
    app.include_router(bulk_action.router)
    app.include_router(revisions.router)
    app.include_router(job_list.router)
    app.include_router(job_search.router)
    app.include_router(overview_page.router)
    app.include_router(budgets_page.router)
    app.include_router(spending_page.router)
    app.include_router(pause_page.router)
    app.include_router(limits_page.router)
    app.include_router(set_pages.router)
    app.include_router(request_page.router)
    app.include_router(inbox_page.router)
    app.include_router(doctor_page.router)
    app.include_router(job_actions.router)
    app.include_router(decision_link_page.router)
    app.include_router(job_text.router)
    for kind in (HandoffError, HTTPException, RequestValidationError, OperationalError):
        app.add_exception_handler(kind, handle)
    app.add_middleware(Shield)
    return app


def build_receiver(receiver: Receiver) -> FastAPI:
    """The receiver of webhooks alone, with ``GET /health``: everything in it is public, and answers in JSON."""
    app = _new_app(receiver)
    app.include_router(webhook_receiver.router)
    app.add_api_route("/health", webhook_receiver.health)

    async def refuse(request: Request, error: Exception) -> Response:
        return answer_program(request, error)

    app.add_exception_handler(HTTPException, refuse)
    app.add_middleware(Shield, respond=answer_program)
    return app


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The OpenAPI description of the jobs API."""
        if self.openapi_schema is None:
            self.openapi_schema = described(super().openapi())
        return self.openapi_schema


def _new_app(receiver: Receiver) -> FastAPI:
    app = _App(
        title="AI Handoff",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        generate_unique_id_function=_operation_id,
    )
    app.state.receiver = receiver
    return app


def _operation_id(route: APIRoute) -> str:
    """The name of a route, after which generators name the methods of a client."""
    return route.name
