"""What the commands share: how they end, open the ledger, name the user, and print rows."""

from __future__ import annotations

import json
import os
import pwd
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import yaml
from airflow.cli.simple_table import AirflowConsole
from airflow.providers.common.compat.sdk import AirflowException
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from pydantic_core import to_jsonable_python

from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.limits import COMMAND
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.hooks.ledger import LedgerHook

Command = Callable[[Namespace], None]

_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"


def command(function: Command) -> Command:
    """End with one line and the exit code 1 if the command fails."""

    @wraps(function)
    def run(args: Namespace) -> None:
        try:
            with _connections_of_the_database():
                function(args)
        except (HandoffError, AirflowException, ValueError) as error:
            sys.exit(f"aihandoff: {error}")

    wrapped: Command = suppress_logs_and_warning(providers_configuration_loaded(run))
    return wrapped


@contextmanager
def _connections_of_the_database() -> Iterator[None]:
    """Find connections in Airflow's database too, as Airflow's own commands do."""
    before = os.environ.get(_CONTEXT)
    os.environ[_CONTEXT] = "server"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CONTEXT]
        else:
            os.environ[_CONTEXT] = before


@contextmanager
def open_ledger(args: Namespace) -> Iterator[Ledger]:
    """The ledger that the command uses."""
    with LedgerHook(args.conn_id, limits=COMMAND).get_conn() as ledger:
        yield ledger


def account() -> str:
    """The account that the command runs as, by the operating system: no variable of the environment can name another.

    Its number, where it has no name, as in some containers.
    """
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def person() -> Person:
    """The person at the terminal, as the rules of a review know people: without roles and groups in Airflow."""
    return Person(account(), at_terminal=True)


def actor() -> Actor:
    """The person at the terminal, as decisions and the history have them."""
    return Actor.terminal(account())


def check_reason(reason: str) -> None:
    """Exit with 1 if a required reason is blank."""
    if not reason.strip():
        sys.exit("aihandoff: --reason must not be empty.")


def print_rows(rows: list[dict[str, Any]], output: str) -> None:
    """Print rows. JSON and YAML keep the types of the values, which Airflow's console turns into text."""
    data = to_jsonable_python(rows)
    if output == "json":
        print(json.dumps(data, indent=2, ensure_ascii=False))
    elif output == "yaml":
        print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), end="")
    else:
        AirflowConsole().print_as(data=data, output=output)
