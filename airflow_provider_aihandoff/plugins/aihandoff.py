"""The plugin, as every Airflow process loads it. Light: the app is built only in the API server."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import AirflowPlugin

from airflow_provider_aihandoff import airflow_compat

URL_PREFIX = "/aihandoff"

# Relative to the address that Airflow's UI is served at, so that they also work under a path prefix.
_HOME = "aihandoff/"
_ICON = "aihandoff/static/icon.svg"

#: What tells tasks that are about a job from others, those of your own operators included: the colour that they
#: inherit.
TASK_COLORS = ["#e8f3ee", "#e7e9f7", "#fbeee0", "#f5dcd2"]


def _view(destination: str, url_route: str, query: str = "", **more: Any) -> dict[str, Any]:
    """One place in Airflow's UI that shows the review pages in a frame."""
    return {
        "name": "AI Handoff",
        "href": f"{_HOME}{query}",
        "destination": destination,
        "url_route": url_route,
        "icon": _ICON,
        **more,
    }


class AIHandoffPlugin(AirflowPlugin):
    """The review pages and the jobs API, mounted at ``/aihandoff`` in the API server."""

    name = "aihandoff"
    external_views: list[Any] = [  # noqa: RUF012  Airflow declares it so
        _view("nav", "aihandoff", "overview", nav_top_level=True),
        _view("dag", "aihandoff-dag", "?tab=all&dag_id={DAG_ID}"),
        _view("dag_run", "aihandoff-run", "?tab=all&dag_id={DAG_ID}&run_id={RUN_ID}"),
        _view(
            "task_instance",
            "aihandoff-task",
            "?tab=all&dag_id={DAG_ID}&run_id={RUN_ID}",
            **airflow_compat.view_only_where({"task.ui_color": TASK_COLORS}),
        ),
    ]

    @cached_property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]  # a list, computed when it is read
        """The app. Only the API server reads this; its imports cost more than a second elsewhere."""
        from airflow_provider_aihandoff.web.app import build_app

        return [{"app": build_app(), "url_prefix": URL_PREFIX, "name": "AI Handoff"}]

    @cached_property
    def fastapi_root_middlewares(self) -> list[Any]:  # type: ignore[override]  # a list, computed when it is read
        """What makes runs of requests for jobs while the API server serves."""
        from airflow_provider_aihandoff.web.front_door.follow import FrontDoor

        return [{"middleware": FrontDoor, "args": [], "kwargs": {}, "name": "AI Handoff"}]
