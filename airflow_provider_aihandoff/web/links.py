"""Paths of the app's own routes. Pure."""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request

API_PREFIX = "/api/v1"
WEBHOOKS_PREFIX = "/webhooks"

#: With it, a page that refreshes itself says where it is shown: `Sec-Fetch-Dest` does not tell that of a `fetch`.
WINDOW_HEADER = "aihandoff-window"


#: The token of a decision link.
_TOKEN = re.compile(r"(?<=/decide/)[^/]+")


def path_to(request: Request, route: str, **params: Any) -> str:
    """The path of a route as the browser has to ask for it: under the prefix that Airflow is served at, if any.

    A path and no address, since a proxy may have changed scheme and host on the way here.
    """
    return f"{_root(request)}{request.app.url_path_for(route, **params)}"


def review_of_set(request: Request, set_id: int) -> str:
    """The path of the bulk review of what waits of one set, grouped by why a person is asked."""
    return f"{path_to(request, 'bulk_review_page')}?by=outcome&set={set_id}"


def airflow_path(request: Request, path: str) -> str:
    """A path in Airflow itself, under the prefix that it is served at, if any."""
    prefix = str(request.scope.get("app_root_path", "")).rstrip("/")
    return f"{prefix}{path}"


def in_own_window(request: Request) -> bool:
    """Whether the page is shown in a window of its own, as its browser says: not in a frame of Airflow."""
    return request.headers.get(WINDOW_HEADER, request.headers.get("sec-fetch-dest")) == "document"


def is_api(request: Request) -> bool:
    """Whether the request is for the REST API or the receiver of webhooks, where answers are JSON."""
    return request.url.path.removeprefix(_root(request)).startswith((f"{API_PREFIX}/", f"{WEBHOOKS_PREFIX}/"))


def loggable(path: object) -> str:
    """A path as logs may have it: without the token of a decision link."""
    return _TOKEN.sub("***", str(path))


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")
