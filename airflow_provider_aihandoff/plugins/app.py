"""Builds the app that Airflow's API server mounts, and the one that receives webhooks alone."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from psycopg import OperationalError
from starlette.exceptions import HTTPException

from airflow_provider_aihandoff import __version__
from airflow_provider_aihandoff.errors import HandoffError
from airflow_provider_aihandoff.plugins import api, batch, editing, lists, pages, webhooks
from airflow_provider_aihandoff.plugins.problems import Shield, answer_program, handle
from airflow_provider_aihandoff.plugins.webhooks import Receiver


def build_app() -> FastAPI:
    """The review pages, the jobs API and the receiver. Its own schema and docs pages are off: they would be public."""
    app = _new_app(Receiver())
    app.include_router(api.router)
    app.include_router(webhooks.router)
    app.include_router(batch.router)
    app.include_router(editing.router)
    app.include_router(lists.router)
    app.include_router(pages.router)
    for kind in (HandoffError, HTTPException, RequestValidationError, OperationalError):
        app.add_exception_handler(kind, handle)
    app.add_middleware(Shield)
    return app


def build_receiver(receiver: Receiver) -> FastAPI:
    """The receiver of webhooks alone, with ``GET /health``: everything in it is public, and answers in JSON."""
    app = _new_app(receiver)
    app.include_router(webhooks.router)
    app.add_api_route("/health", webhooks.health)

    async def refuse(request: Request, error: Exception) -> Response:
        return answer_program(request, error)

    app.add_exception_handler(HTTPException, refuse)
    app.add_middleware(Shield, respond=answer_program)
    return app


def _new_app(receiver: Receiver) -> FastAPI:
    app = FastAPI(title="AI Handoff", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.receiver = receiver
    return app
