"""Renders the templates. Every value is escaped, its invisible characters are shown, and each page has a budget."""

from __future__ import annotations

import hashlib
import logging
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from airflow_provider_aihandoff.core import moments
from airflow_provider_aihandoff.core.admission.pause_store import Pause
from airflow_provider_aihandoff.core.amounts import count, dollars
from airflow_provider_aihandoff.core.effects.describe import describe_undo
from airflow_provider_aihandoff.core.invisible import has_hidden, reveal
from airflow_provider_aihandoff.web.auth import visible_pauses
from airflow_provider_aihandoff.web.links import in_own_window, path_to
from airflow_provider_aihandoff.web.render import formatting
from airflow_provider_aihandoff.web.render.budget import Budget
from airflow_provider_aihandoff.web.render.markdown import markdown
from airflow_provider_aihandoff.web.render.target_diff import current_of

log = logging.getLogger(__name__)

_WEB = Path(__file__).parents[1]


class Asset(NamedTuple):
    """A file that pages use.

    :param version: changes with the content, and is part of the address, so that browsers may keep the file.
    """

    content: bytes
    media_type: str
    version: str


@cache
def assets() -> Mapping[str, Asset]:
    """The files in ``static/``: all that the app serves without a login."""
    media_types = {"aihandoff.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}
    found = {}
    for name, media_type in media_types.items():
        content = (_WEB / "static" / name).read_bytes()
        found[name] = Asset(content, media_type, hashlib.sha256(content).hexdigest()[:12])
    return found


@cache
def refresh_script() -> Markup:
    """The only script of the pages. It stands in the page itself, and browsers run it by its hash alone."""
    parts = [(_WEB / "static" / name).read_text("utf-8") for name in ("refresh.js", "live.js")]
    return Markup("".join(parts))  # noqa: S704 - files of this package


def script_hash() -> str:
    """The hash of :func:`refresh_script`, as a Content-Security-Policy names it."""
    return f"'sha256-{b64encode(hashlib.sha256(refresh_script().encode()).digest()).decode()}'"


def page(
    request: Request,
    template: str,
    context: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """Render a page."""
    now = datetime.now(UTC)
    html = (
        _environment()
        .get_template(template)
        .render(
            {
                "path": partial(path_to, request),
                "asset": partial(_asset_path, request),
                "ago": partial(moments.relative, now=now),
                "budget": Budget(),
                "pauses": _pauses(request, context),
                "own_window": in_own_window(request),
                **context,
            }
        )
    )
    return HTMLResponse(html, status, dict(headers or {}))


def _pauses(request: Request, context: Mapping[str, Any]) -> list[Pause]:
    """The pauses in force, which every page of a user says. A page that has no ledger, or not now, says none."""
    ledger, viewer = getattr(request.state, "ledger", None), context.get("viewer")
    if ledger is None or viewer is None:
        return []
    try:
        return visible_pauses(ledger, viewer)
    except Exception as error:  # noqa: BLE001 - the page itself is shown all the same
        log.warning("The pauses cannot be read: %s", type(error).__name__)
        return []


def _asset_path(request: Request, name: str) -> str:
    return f"{path_to(request, 'static', name=name)}?v={assets()[name].version}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_WEB / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "moment": moments.moment,
        "label": formatting.label,
        "typed": _typed,
        "with_code": _with_code,
    }
    environment.globals |= {
        "markdown": markdown,
        "has_hidden": has_hidden,
        "rows_of": formatting.rows_of,
        "shape": formatting.shape,
        "count": count,
        "dollars": dollars,
        "cost": formatting.cost,
        "job_cost": formatting.job_cost,
        "span_of_time": formatting.span_of_time,
        "of_this_job": formatting.of_this_job,
        "output_of": formatting.output_of,
        "model": formatting.model,
        "tokens": formatting.tokens,
        "tool_calls": formatting.tool_calls,
        "pretty_body": formatting.pretty_body,
        "request_view": formatting.request_view,
        "current_of": current_of,
        "effect_status": formatting.effect_status,
        "why_left_out": formatting.why_left_out,
        "taken_from_earlier": formatting.taken_from_earlier,
        "has_secret": formatting.has_secret,
        "refresh_script": refresh_script,
        "undo_view": describe_undo,
        "undo_problem": formatting.undo_problem,
    }
    return environment


def _typed(text: str) -> Markup:
    """A text for an input, with every character unchanged, so that it can be sent again as it is.

    :return: escaped; what HTML cannot contain is replaced, as browsers do.
    """
    return escape(text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode())


@pass_context
def _with_code(context: Context, text: str) -> Markup:
    """A text of ours, in which what stands between backquotes is code."""
    parts = [escape(_finalize(context, part)) for part in text.split("`")]
    return Markup().join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    """What is printed, before it is escaped: as much as the page has room for."""
    return value if isinstance(value, Markup) else reveal(context["budget"].text(str(value)))
