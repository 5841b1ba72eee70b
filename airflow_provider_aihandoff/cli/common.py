"""What the commands share: how they end, open the ledger, name the user, and print.

Only this module prints: what the ledger holds was written by models, targets and other users, and a terminal obeys the
escape sequences in a text.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NoReturn

import yaml
from airflow.cli.simple_table import AirflowConsole
from airflow.providers.common.compat.sdk import AirflowException
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from pydantic_core import to_jsonable_python

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.invisible import escape, escape_lines, has_hidden
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.limits import COMMAND
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, Reviewers
from airflow_provider_aihandoff.hooks.ledger import LedgerHook
from airflow_provider_aihandoff.hooks.observability import set_up_metrics

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
            fail(str(error))

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
def open_ledger(args: Namespace, max_size: int = 1) -> Iterator[Ledger]:
    """The ledger that the command uses. What is done in it is counted in Airflow's metrics, as in any other process."""
    set_up_metrics()
    with LedgerHook(args.conn_id, limits=COMMAND).get_conn(max_size) as ledger:
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


def reviewers(args: Namespace) -> Reviewers:
    """The people whom a command names as those who may decide.

    :raises ValueError: a name is empty.
    """
    return Reviewers(
        Approvers(args.user, args.role, args.group),
        Approvers(args.escalate_user, args.escalate_role, args.escalate_group),
    )


def say(line: str, *, error: bool = False) -> None:
    """Print one line; what a terminal would not show, or would obey, as escapes.

    :param error: to the standard error.
    """
    print(escape(line), file=sys.stderr if error else sys.stdout, flush=True)


def say_on(text: str) -> None:
    """Print more of a text, without ending the line; what a terminal would not show, or would obey, as escapes."""
    print(escape_lines(text), end="", flush=True)


def say_over(line: str) -> None:
    """Say how far something has come: on one line of a terminal, over what was said before; else on a line of its own.

    It goes to the standard error.
    """
    if sys.stderr.isatty():
        print(f"\r\x1b[K{escape(line)}", end="", file=sys.stderr, flush=True)
    else:
        say(line, error=True)


def end_line() -> None:
    """End the line that :func:`say_over` has written."""
    if sys.stderr.isatty():
        print(file=sys.stderr)


def fail(why: str) -> NoReturn:
    """Exit with 1, and one line."""
    sys.exit(f"aihandoff: {escape(as_typed(why))}")


def as_typed(text: str) -> str:
    """A text of this package, with its commands as this Airflow takes them."""
    return text.replace("airflow aihandoff", PROGRAM)


def check_reason(reason: str) -> None:
    """Exit with 1 if a required reason is blank."""
    if not reason.strip():
        fail("--reason must not be empty.")


def print_rows(rows: list[dict[str, Any]], output: str) -> None:
    """Print rows. JSON and YAML keep the types of the values, which Airflow's console turns into text.

    In every format, what a terminal would not show, or would obey, is printed as escapes. Read as JSON or YAML, they
    are the characters again.
    """
    data = to_jsonable_python(rows)
    if output == "json":
        print(escape_lines(json.dumps(data, indent=2, ensure_ascii=False), json_text=True))
    elif output == "yaml":
        print(escape_lines(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)), end="")
    else:
        AirflowConsole(markup=False, emoji=False, highlight=False).print_as(data=_escaped(data), output=output)


class _Dumper(yaml.SafeDumper):
    """Puts a text that needs escapes into the quotes in which they are read as such."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """A text as YAML."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if has_hidden(data) else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _escaped(value: Any) -> Any:
    """A JSON value with every text in it escaped."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list):
        return [_escaped(part) for part in value]
    if isinstance(value, dict):
        return {escape(name): _escaped(part) for name, part in value.items()}
    return value
