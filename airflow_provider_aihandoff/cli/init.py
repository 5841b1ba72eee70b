"""`airflow aihandoff init`: write template Dags into the Dags folder, and say what they need."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook, conf

import airflow_provider_aihandoff
from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.cli.common import command, fail, say

_PACKAGE = Path(airflow_provider_aihandoff.__file__).parent
#: Where the templates are: in the installed wheel, or beside the package in a checkout.
_FOLDERS = (_PACKAGE / "dags", _PACKAGE.parent / "dags")

_OPENAI = "openai_default"


@dataclass(frozen=True)
class Template:
    """A Dag file to begin with.

    :param file: its name.
    :param does: what it does, in a sentence.
    :param conn_ids: the connections that it needs besides the ledger's.
    """

    file: str
    does: str
    conn_ids: tuple[str, ...] = ()

    @property
    def dag_id(self) -> str:
        """The id of the Dag in it."""
        return Path(self.file).stem

    def read(self) -> str:
        """Its text."""
        return next(folder / self.file for folder in _FOLDERS if (folder / self.file).is_file()).read_text()


TEMPLATES = {
    "first": Template(
        "first_note.py",
        "Draft a note, have it approved, and write it into a file: a first job, on your own",
        (_OPENAI,),
    ),
    "publishing": Template(
        "publishing.py", "Draft a product note, have it approved, and publish it in a CMS", (_OPENAI, "cms")
    ),
    "report": Template(
        "report_drafting.py",
        "Draft a weekly report from a database, have it approved, store it and announce it",
        (_OPENAI, "sales_db", "channel"),
    ),
    "tickets": Template(
        "ticket_classification.py",
        "Classify all open tickets as one set; a policy approves what is plain, and people the rest",
        (_OPENAI, "helpdesk"),
    ),
    "rollback": Template("aihandoff_rollback.py", "Roll a job back from the Airflow UI, with a form"),
    "reconcile": Template(
        "aihandoff_reconcile.py", "Find orphaned work every five minutes, and notify people of what waits for them"
    ),
    "events": Template("aihandoff_events.py", "Send changes of jobs to those who have subscribed"),
}

#: How each connection is made. `$NAME` is for you to set: a secret in the text of a command would be kept by the shell.
_CONNECTIONS = {
    _OPENAI: '--conn-type openai --conn-password "$OPENAI_API_KEY"',
    "cms": '--conn-type http --conn-host https://cms.example.com --conn-password "$CMS_TOKEN"',
    "helpdesk": '--conn-type http --conn-host https://helpdesk.example.com --conn-password "$HELPDESK_TOKEN"',
    "channel": '--conn-type http --conn-host https://chat.example.com --conn-password "$CHANNEL_TOKEN"',
    "sales_db": "--conn-type postgres --conn-host db.example.com --conn-schema sales --conn-login sales_user "
    '--conn-password "$SALES_DB_PASSWORD"',
}
_LEDGER = (
    "--conn-type postgres --conn-host db.example.com --conn-schema ledger --conn-login ledger_user "
    '--conn-password "$LEDGER_PASSWORD"'
)


@command
def init(args: Namespace) -> None:
    """Write the templates that are named, and print the commands that make what they need.

    A file that is there stays as it is. If one of them has another content, nothing is written.
    """
    if not args.template:
        for name, template in TEMPLATES.items():
            say(f"{name:<12} {template.does}")
        say(f"Name those that you want: {PROGRAM} init publishing reconcile")
        return
    if unknown := [name for name in args.template if name not in TEMPLATES]:
        fail(f"there is no template {', '.join(unknown)}. Nothing was written. There are: {', '.join(TEMPLATES)}.")
    folder = Path(args.folder or conf.get("core", "dags_folder")).expanduser()
    files = {folder / TEMPLATES[name].file: TEMPLATES[name].read() for name in args.template}
    if changed := [str(path) for path, text in files.items() if path.exists() and path.read_text() != text]:
        fail(
            f"{', '.join(changed)}: there is such a file already, with another content. Nothing was written. "
            "Rename it, or choose another folder with --folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        say(f"{path}: {'is there already' if path.exists() else 'written'}")
        if not path.exists():
            _write(path, text)
    _say_what_is_needed(args)


def _write(path: Path, text: str) -> None:
    """Write a file so that Airflow never parses half of it: under a name that is no Dag file, and renamed."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


def _say_what_is_needed(args: Namespace) -> None:
    """Print a command for each connection that Airflow does not have, and what comes next."""
    ledger = args.conn_id or settings.text("ledger_conn_id")
    needed = {ledger: _LEDGER}
    needed |= {conn_id: _CONNECTIONS[conn_id] for name in args.template for conn_id in TEMPLATES[name].conn_ids}
    if missing := {conn_id: options for conn_id, options in needed.items() if not _is_known(conn_id)}:
        say("Make these connections, with your own hosts, logins and secrets:")
        for conn_id, options in missing.items():
            say(f"  airflow connections add {conn_id} {options}")
    say("Then:")
    for each in ("db upgrade", "doctor"):
        say(f"  {PROGRAM} {each}")
    for name in args.template:
        say(f"  airflow dags unpause {TEMPLATES[name].dag_id}")


def _is_known(conn_id: str) -> bool:
    try:
        BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return False
    return True
