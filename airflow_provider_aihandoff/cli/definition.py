"""What `airflow aihandoff` offers. Imported by every call of `airflow`: the commands load when they run."""

from __future__ import annotations

from airflow.cli.cli_config import ARG_VERBOSE, ActionCommand, Arg, GroupCommand, lazy_load_command

from airflow_provider_aihandoff.core.states import Disposition, EffectState, JobState

_COMMANDS = "airflow_provider_aihandoff.cli.commands"
_ENDINGS = "airflow_provider_aihandoff.cli.endings"
_INBOX = "airflow_provider_aihandoff.cli.inbox"
_RECONCILE = "airflow_provider_aihandoff.cli.reconcile"
_WEBHOOKS = "airflow_provider_aihandoff.cli.webhooks"

_JOB = Arg(("job_id",), type=int, help="Id of the job")
_EFFECT = Arg(("effect_id",), type=int, help="Id of the effect")
_WEBHOOK = Arg(("webhook_id",), help="Id of the webhook")
_JOB_STATE = Arg(
    ("--state",), action="append", default=[], choices=list(JobState), help="Only in this state; may be given again"
)
_EFFECT_STATE = Arg(
    ("--state",), action="append", default=[], choices=list(EffectState), help="Only in this state; may be given again"
)
_DISPOSITION = Arg(
    ("--disposition",), action="append", default=[], choices=list(Disposition), help="Only these; may be given again"
)
_DAG = Arg(("--dag-id",), default=None, help="Only of this Dag")
_LIMIT = Arg(("--limit",), type=int, default=50, help="How many at most (default: 50)")
_OUTPUT = Arg(
    ("--output", "-o"), choices=("table", "json", "yaml", "plain"), default="table", help="Form of the output"
)
_DIGEST = Arg(("--digest",), required=True, help="The digest of what you looked at, as `review show` prints it")
_COMMENT = Arg(("--comment",), default=None, help="Why; goes on the record")
_WHY = Arg(("--why",), required=True, help="Why; goes on the record")
_LEDGER = Arg(
    ("--conn-id",), default=None, help="Connection of the ledger (default: ledger_conn_id in the section aihandoff)"
)


def _action(name: str, help: str, function: str, *args: Arg, module: str = _COMMANDS) -> ActionCommand:
    return ActionCommand(
        name=name, help=help, func=lazy_load_command(f"{module}.{function}"), args=(*args, _LEDGER, ARG_VERBOSE)
    )


def _review(name: str, help: str, function: str, *args: Arg) -> ActionCommand:
    return _action(name, help, function, *args, module="airflow_provider_aihandoff.cli.review")


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
                GroupCommand(
                    name="review",
                    help="What waits for a decision, and deciding on it",
                    subcommands=(
                        _review("list", "List what waits, the oldest first", "review_list", _DAG, _OUTPUT),
                        _review("show", "Show what is to be decided on", "review_show", _JOB, _OUTPUT),
                        _review("approve", "Approve what a job would write", "approve", _JOB, _DIGEST, _COMMENT),
                        _review("reject", "Reject it", "reject", _JOB, _DIGEST, _COMMENT),
                        _review(
                            "request-changes",
                            "Ask the model for another revision",
                            "request_changes",
                            _JOB,
                            _DIGEST,
                            Arg(("--comment",), required=True, help="What is to be changed; the model reads it"),
                        ),
                        _review(
                            "edit",
                            "Change the output yourself",
                            "edit",
                            _JOB,
                            _DIGEST,
                            Arg(
                                ("--file",),
                                help="The whole output, JSON or text; - for the standard input (default: open an "
                                "editor on it)",
                            ),
                        ),
                        _review(
                            "decide-many",
                            "Give many jobs one answer, or none of them",
                            "decide_many",
                            Arg(("--approve",), action="store_true", help="Approve them"),
                            Arg(("--reject",), action="store_true", help="Reject them"),
                            Arg(
                                ("--file",),
                                default="-",
                                help="Lines of a job's id and its digest (default: the standard input)",
                            ),
                            _COMMENT,
                        ),
                    ),
                ),
                _action("cancel", "Stop a job: nothing else of it is sent", "cancel", _JOB, _WHY, module=_ENDINGS),
                _action(
                    "rollback",
                    "Take back what a job has written, the last effect first; goes on with one that has begun",
                    "rollback",
                    _JOB,
                    _WHY,
                    Arg(
                        ("--leave",),
                        action="append",
                        default=[],
                        metavar="NAME",
                        help="Name of an effect that is to stay as it is; may be given again",
                    ),
                    Arg(("--yes", "-y"), action="store_true", help="Do not ask before it begins"),
                    module=_ENDINGS,
                ),
                _action(
                    "preview-clear",
                    "Say what clearing a Dag run would pay for and write",
                    "preview_clear",
                    Arg(("dag_id",), help="Id of the Dag"),
                    Arg(("run_id",), help="Id of the run"),
                    _OUTPUT,
                    module="airflow_provider_aihandoff.cli.preview",
                ),
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
                            Arg(("--attempt",), type=int, help="The attempt that you looked for (default: the newest)"),
                        ),
                    ),
                ),
                GroupCommand(
                    name="inbox",
                    help="Webhooks that came, and what became of each",
                    subcommands=(
                        _action(
                            "list",
                            "List webhooks, newest first",
                            "inbox_list",
                            _DISPOSITION,
                            _LIMIT,
                            _OUTPUT,
                            module=_INBOX,
                        ),
                        _action("show", "Show one webhook", "inbox_show", _WEBHOOK, _OUTPUT, module=_INBOX),
                        _action(
                            "replay", "Look anew at one that led to nothing", "inbox_replay", _WEBHOOK, module=_INBOX
                        ),
                        _action(
                            "discard",
                            "Say that one in quarantine means nothing",
                            "inbox_discard",
                            _WEBHOOK,
                            Arg(("--why",), required=True, help="How you know; is kept with it"),
                            module=_INBOX,
                        ),
                        _action(
                            "prune",
                            "Remove old ones, except those in quarantine",
                            "inbox_prune",
                            Arg(
                                ("--older-than-days",),
                                type=float,
                                help="At least 4 (default: inbox_retention in the section aihandoff)",
                            ),
                            module=_INBOX,
                        ),
                    ),
                ),
                _action(
                    "reconcile",
                    "Find what nobody waits for any more, and take the next step for each",
                    "reconcile_once",
                    Arg(("--dry-run",), action="store_true", help="Only say what would be done"),
                    _OUTPUT,
                    module=_RECONCILE,
                ),
                GroupCommand(
                    name="webhooks",
                    help="OpenAI's webhooks",
                    subcommands=(
                        _action(
                            "serve",
                            "Receive webhooks without an API server, at the same path as in one",
                            "serve",
                            Arg(("--host",), default="127.0.0.1", help="Address to listen on (default: 127.0.0.1)"),
                            Arg(("--port",), type=int, default=8090, help="Port to listen on (default: 8090)"),
                            Arg(
                                ("--openai-conn-id",),
                                action="append",
                                help="OpenAI connection whose webhooks are taken; may be given again (default: "
                                "webhook_conn_ids in the section aihandoff)",
                            ),
                            Arg(("--ssl-certfile",), help="Certificate, to serve HTTPS"),
                            Arg(("--ssl-keyfile",), help="Key of the certificate, where it stands in another file"),
                            Arg(
                                ("--proxy-headers",),
                                action="store_true",
                                help="Believe X-Forwarded-* of the proxies that FORWARDED_ALLOW_IPS names",
                            ),
                            module=_WEBHOOKS,
                        ),
                    ),
                ),
            ),
        )
    ]
