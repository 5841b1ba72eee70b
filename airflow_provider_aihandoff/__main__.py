"""``python -m airflow_provider_aihandoff``: ``airflow aihandoff`` for Airflow 3.1, which takes no such commands."""

from __future__ import annotations

import sys

from airflow.__main__ import main as airflow

from airflow_provider_aihandoff import airflow_compat
from airflow_provider_aihandoff.cli.definition import get_commands


def main() -> None:
    """Run a command of this package, as Airflow runs it."""
    airflow_compat.add_commands(get_commands())
    sys.argv[:] = ["airflow", "aihandoff", *sys.argv[1:]]
    airflow()


if __name__ == "__main__":
    main()
