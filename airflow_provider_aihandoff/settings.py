"""The one reader of the configuration section ``[aihandoff]``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import conf

from airflow_provider_aihandoff.core.options import OPTIONS, SECTION


def text(name: str) -> str:
    """The value of an option of the type string."""
    value: Any = conf.get(SECTION, name, fallback=OPTIONS[name].default)
    return str(value)


def names(name: str) -> list[str]:
    """The value of an option that names things, separated by commas."""
    return [stripped for part in text(name).split(",") if (stripped := part.strip())]


def number(name: str) -> float:
    """The value of an option of the type float or integer.

    :raises AirflowConfigException: it is not a number.
    """
    return float(conf.getfloat(SECTION, name, fallback=float(OPTIONS[name].default)))


def flag(name: str) -> bool:
    """The value of an option of the type boolean.

    :raises AirflowConfigException: it is neither true nor false.
    """
    return bool(conf.getboolean(SECTION, name, fallback=OPTIONS[name].default == "True"))


def seconds(name: str) -> timedelta:
    """The value of an option in seconds, as a duration."""
    return timedelta(seconds=number(name))


def quiet_after() -> timedelta:
    """After how long without a sign a response that runs counts as quiet, by the intervals of polling."""
    from airflow_provider_aihandoff.core.generation.life_sign import quiet_after as quiet_after_polls
    from airflow_provider_aihandoff.core.generation.pace import POLL_STRETCH

    return quiet_after_polls(
        poll_interval=POLL_STRETCH * number("poll_interval"),
        with_webhooks=number("poll_interval_with_webhooks"),
        sweep_interval=number("sweep_interval"),
    )
