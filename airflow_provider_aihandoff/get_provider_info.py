"""What Airflow reads of this provider when it starts. Light: it is imported by every process."""

from __future__ import annotations

from typing import Any

_ROOT = "airflow_provider_aihandoff"
_INTEGRATION = "AI Handoff"


def get_provider_info() -> dict[str, Any]:
    """Describe the provider, in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-aihandoff",
        "name": _INTEGRATION,
        "description": "Makes long-running AI work safe to connect to the systems that run a business.",
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "tags": ["software"],
            }
        ],
        "operators": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": [
                    f"{_ROOT}.operators.{name}"
                    for name in (
                        "response",
                        "response_set",
                        "side_effect",
                        "http",
                        "postgres",
                        "email",
                        "rollback",
                        "reconcile",
                        "event_delivery",
                    )
                ],
            }
        ],
        "sensors": [{"integration-name": _INTEGRATION, "python-modules": [f"{_ROOT}.sensors.approval"]}],
        "hooks": [{"integration-name": _INTEGRATION, "python-modules": [f"{_ROOT}.hooks.ledger"]}],
        "triggers": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": [
                    f"{_ROOT}.triggers.response",
                    f"{_ROOT}.triggers.submission",
                    f"{_ROOT}.triggers.approval",
                    f"{_ROOT}.triggers.effect",
                    f"{_ROOT}.triggers.set_wait",
                    f"{_ROOT}.triggers.event_delivery",
                ],
            }
        ],
        "task-decorators": [
            {"name": "side_effect", "class-name": f"{_ROOT}.decorators.side_effect.side_effect_task"},
        ],
        "extra-links": [f"{_ROOT}.operators.task_links.{name}" for name in ("ReviewLink", "ExternalRecordLink")],
        "cli": [f"{_ROOT}.cli.definition.get_commands"],
        "config": {"aihandoff": {"description": "Settings of AI Handoff.", "options": _options()}},
    }


def _options() -> dict[str, Any]:
    from airflow_provider_aihandoff.core.options import OPTIONS

    return {
        name: {
            "description": option.description,
            "type": option.type,
            "default": option.default,
            "version_added": "0.1.0",
            "example": None,
            "sensitive": option.sensitive,
        }
        for name, option in OPTIONS.items()
    }
