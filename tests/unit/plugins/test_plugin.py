"""The plugin that every Airflow process loads."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import entry_points

from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.operators.side_effect import SideEffectOperator
from airflow_provider_aihandoff.plugins.aihandoff import TASK_COLORS, URL_PREFIX, AIHandoffPlugin
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.airflow_compat import PLUGINS_MANAGER


def test_airflow_finds_the_plugin_by_its_entry_point() -> None:
    (entry,) = entry_points(group="airflow.plugins", name="aihandoff")
    assert entry.load() is AIHandoffPlugin


def test_loading_it_imports_no_web_framework_no_driver_and_nothing_of_the_api_server() -> None:
    code = """
        import sys
        import {plugins_manager}
        from airflow.providers.common.compat.sdk import AirflowPlugin
        before = set(sys.modules)
        from airflow_provider_aihandoff.plugins.aihandoff import AIHandoffPlugin
        assert AIHandoffPlugin().external_views
        print(*sorted(set(sys.modules) - before))
    """
    code = textwrap.dedent(code).format(plugins_manager=PLUGINS_MANAGER)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    package = "airflow_provider_aihandoff"
    assert {*done.stdout.splitlines()[-1].split(), package} == {
        package,
        f"{package}.airflow_compat",
        f"{package}.plugins",
        f"{package}.plugins.aihandoff",
    }


def test_the_app_is_built_once() -> None:
    plugin = AIHandoffPlugin()
    assert plugin.fastapi_apps is plugin.fastapi_apps
    assert [app["url_prefix"] for app in plugin.fastapi_apps] == [URL_PREFIX]


def test_the_review_pages_are_shown_in_the_navigation_and_with_dags_runs_and_tasks() -> None:
    views = AIHandoffPlugin.external_views
    assert {view["destination"] for view in views} == {"nav", "dag", "dag_run", "task_instance"}
    assert len({view["url_route"] for view in views}) == len(views)
    # Relative, so that the address holds where Airflow is served under a path.
    assert all(view["href"].startswith("aihandoff/") for view in views)


def test_the_tab_of_a_task_is_there_for_tasks_about_a_job_where_airflow_can_tell() -> None:
    about_a_job = (OpenAIBackgroundResponseOperator, ApprovalSensor, SideEffectOperator, RollbackOperator)
    assert [operator.ui_color for operator in about_a_job] == TASK_COLORS
    (tab,) = [view for view in AIHandoffPlugin.external_views if view["destination"] == "task_instance"]
    assert tab.get("applies_to") == (None if RELEASE < (3, 4) else {"task.ui_color": TASK_COLORS})
