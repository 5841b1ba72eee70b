"""What `airflow aihandoff` offers. Imported by every call of `airflow`: the commands load when they run."""

from __future__ import annotations

from airflow.cli.cli_config import ARG_VERBOSE, ActionCommand, Arg, GroupCommand, lazy_load_command

from airflow_provider_aihandoff.states import EffectState, JobState

_COMMANDS = "airflow_provider_aihandoff.cli.commands"

_JOB = Arg(("job_id",), type=int, help="Id of the job")
_EFFECT = Arg(("effect_id",), type=int, help="Id of the effect")
_JOB_STATE = Arg(
    ("--state",), action="append", default=[], choices=list(JobState), help="Only in this state; may be given again"
)
_EFFECT_STATE = Arg(
    ("--state",), action="append", default=[], choices=list(EffectState), help="Only in this state; may be given again"
)
_DAG = Arg(("--dag-id",), default=None, help="Only of this Dag")
_LIMIT = Arg(("--limit",), type=int, default=50, help="How many at most (default: 50)")
_OUTPUT = Arg(
    ("--output", "-o"), choices=("table", "json", "yaml", "plain"), default="table", help="Form of the output"
)
_DIGEST = Arg(("--digest",), required=True, help="The digest that you looked at, as `jobs show` prints it")
_COMMENT = Arg(("--comment",), default=None, help="Why; goes on the record")
_LEDGER = Arg(
    ("--conn-id",), default=None, help="Connection of the ledger (default: ledger_conn_id in the section aihandoff)"
)


def _action(name: str, help: str, function: str, *args: Arg) -> ActionCommand:
    return ActionCommand(
        name=name, help=help, func=lazy_load_command(f"{_COMMANDS}.{function}"), args=(*args, _LEDGER, ARG_VERBOSE)
    )


def get_commands() -> list[GroupCommand]:
    """The command group that the provider adds to `airflow`."""
    return [
        GroupCommand(
            name="aihandoff",
            help="Jobs, decisions and effects of AI Handoff",
            subcommands=(
                GroupCommand(
                    name="db",
                    help="The ledger's schema",
                    subcommands=(
                        _action("upgrade", "Create the schema, or bring it up to date", "db_upgrade"),
                        _action("check", "Say whether the schema is the one that is needed", "db_check"),
                    ),
                ),
                GroupCommand(
                    name="jobs",
                    help="Jobs",
                    subcommands=(
                        _action("list", "List jobs, newest first", "jobs_list", _JOB_STATE, _DAG, _LIMIT, _OUTPUT),
                        _action("show", "Show all that is known of a job", "jobs_show", _JOB, _OUTPUT),
                    ),
                ),
                _action("approve", "Approve what a job would write", "approve", _JOB, _DIGEST, _COMMENT),
                _action("reject", "Reject what a job would write", "reject", _JOB, _DIGEST, _COMMENT),
                GroupCommand(
                    name="effects",
                    help="Writes to outside systems",
                    subcommands=(
                        _action("list", "List effects, newest first", "effects_list", _EFFECT_STATE, _LIMIT, _OUTPUT),
                        _action("show", "Show one effect", "effects_show", _EFFECT, _OUTPUT),
                        _action(
                            "resolve",
                            "Say what became of an effect whose outcome is not known",
                            "effects_resolve",
                            _EFFECT,
                            Arg(("--applied",), metavar="EXTERNAL_ID", help="It was applied, as this record"),
                            Arg(("--not-applied",), action="store_true", help="It was not applied"),
                            Arg(("--why",), required=True, help="How you know; goes on the record"),
                        ),
                    ),
                ),
            ),
        )
    ]
