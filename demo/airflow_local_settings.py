"""Imports in the scheduler what its tasks import, so that each of them finds it there. Copied into the demo's Airflow.

The LocalExecutor forks a process for each leg of a task. What is not imported by then is imported by every one of them:
the task SDK, a client for OpenAI, the modules of the operators. That is most of what a short leg costs.
"""

import sys
from importlib import import_module

PRELOADED = (
    "airflow.providers.http.hooks.http",
    "airflow.providers.openai.hooks.openai",
    "airflow.providers.postgres.hooks.postgres",
    "airflow.providers.standard.decorators.python",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow_provider_aihandoff.operators.earlier_effects",
    "airflow_provider_aihandoff.operators.endpoint_values",
    "airflow_provider_aihandoff.operators.http",
    "airflow_provider_aihandoff.operators.planning",
    "airflow_provider_aihandoff.operators.postgres",
    "airflow_provider_aihandoff.operators.revising",
    "airflow_provider_aihandoff.operators.skipped",
    "airflow_provider_aihandoff.operators.waiting",
    "airflow_provider_aihandoff.policies",
    "airflow_provider_aihandoff.core.generation.openai.provider",
    "airflow_provider_aihandoff.core.generation.settle",
    "airflow_provider_aihandoff.core.generation.submit",
    "airflow_provider_aihandoff.sensors.approval",
    "airflow_provider_aihandoff.core.effects.apply",
    "airflow_provider_aihandoff.core.effects.completion",
    "airflow_provider_aihandoff.core.effects.current_values",
    "airflow_provider_aihandoff.targets.http",
    "airflow_provider_aihandoff.targets.postgres",
    "airflow_provider_aihandoff.triggers.approval",
    "airflow_provider_aihandoff.triggers.response",
    "openai.resources.responses",
)

if "scheduler" in sys.argv:
    for name in PRELOADED:
        import_module(name)
