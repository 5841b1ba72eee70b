"""Builds the app that Airflow's API server mounts."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from psycopg import OperationalError
from starlette.exceptions import HTTPException

from airflow_provider_aihandoff import __version__
from airflow_provider_aihandoff.errors import HandoffError
from airflow_provider_aihandoff.plugins import api, pages
from airflow_provider_aihandoff.plugins.problems import Shield, handle


def build_app() -> FastAPI:
    """The review pages and the jobs API. Its own schema and documentation pages are off: they would be public."""
    app = FastAPI(title="AI Handoff", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(api.router)
    app.include_router(pages.router)
    for kind in (HandoffError, HTTPException, RequestValidationError, OperationalError):
        app.add_exception_handler(kind, handle)
    app.add_middleware(Shield)
    return app
