"""What `airflow aihandoff` offers. Imported by every call of `airflow`: the commands load when they run.

Each command names its function as ``module.function``, in this package.
"""

from __future__ import annotations

from airflow.cli.cli_config import ARG_VERBOSE, ActionCommand, Arg, GroupCommand, lazy_load_command

from airflow_provider_aihandoff.core.budgets.budget_spec import OnFull
from airflow_provider_aihandoff.core.budgets.period import Period
from airflow_provider_aihandoff.core.budgets.spent_by import SpentBy
from airflow_provider_aihandoff.core.job_requests.job_request import Standing
from airflow_provider_aihandoff.core.jobs.job_filter import Need, Sort
from airflow_provider_aihandoff.core.rates.rate_limit import PERIODS, Measure
from airflow_provider_aihandoff.core.states import Disposition, EffectState, JobState

_JOB = Arg(("job_id",), type=int, help="Id of the job")
_EFFECT = Arg(("effect_id",), type=int, help="Id of the effect")
_WEBHOOK = Arg(("webhook_id",), help="Id of the webhook")
_JOB_STATE = Arg(
    ("--state",), action="append", default=[], choices=list(JobState), help="Only jobs in this state; repeatable"
)
_EFFECT_STATE = Arg(
    ("--state",), action="append", default=[], choices=list(EffectState), help="Only effects in this state; repeatable"
)
_DISPOSITION = Arg(
    ("--disposition",),
    action="append",
    default=[],
    choices=list(Disposition),
    help="Only webhooks with this disposition; repeatable",
)
_DAG = Arg(("--dag-id",), default=None, help="Only jobs of this Dag")
_FILTER = (
    _JOB_STATE,
    Arg(("--type",), default=None, help="Only jobs of this type"),
    Arg(("--key",), default=None, help="Only jobs whose key begins like this"),
    _DAG,
    Arg(("--run-id",), default=None, help="Only jobs that this run has made or attached to"),
    Arg(("--task-id",), default=None, help="Only jobs of this task; needs --dag-id"),
    Arg(("--requester",), default=None, help="Only jobs that this user has requested"),
    Arg(("--reviewer",), default=None, help="Only jobs on which this user, account or policy has decided"),
    Arg(("--older-than",), default=None, help="Only jobs of at least this age, such as 7d or 12h"),
    Arg(("--newer-than",), default=None, help="Only jobs of at most this age, such as 7d or 12h"),
    Arg(("--min-cost",), default=None, help="Only jobs that cost at least so many dollars"),
    Arg(("--min-retries",), default=None, help="Only jobs of which at least so many requests were sent again"),
    Arg(("--external-id",), default=None, help="Only jobs with an effect whose record has this id"),
    Arg(("--response-id",), default=None, help="Only the job of this response"),
    Arg(("--error",), default=None, help="Words that all stand in the error of the job, or of one of its effects"),
    Arg(("--need",), default=None, choices=list(Need), help="Only jobs that need a person for this reason"),
    Arg(("--set",), default=None, help="Only jobs of the set with this id"),
    Arg(("--sort",), default=None, choices=list(Sort), help="The order (default: newest)"),
)
_SET = Arg(("--set",), type=int, default=None, help="Only jobs of the set with this id")
_LIMIT = Arg(("--limit",), type=int, default=50, help="Maximum number of rows (default: 50)")
_OUTPUT = Arg(("--output", "-o"), choices=("table", "json", "yaml", "plain"), default="table", help="Output format")
_DIGEST = Arg(("--digest",), required=True, help="The digest of what you reviewed, as `review show` prints it")
_COMMENT = Arg(("--comment",), default=None, help="Your comment; kept in the history")
_REASON = Arg(("--reason",), required=True, help="Your reason; kept in the history")
_LEDGER = Arg(
    ("--conn-id",), default=None, help="Connection of the ledger (default: ledger_conn_id in the section aihandoff)"
)


def _action(name: str, help: str, function: str, *args: Arg) -> ActionCommand:
    return ActionCommand(
        name=name,
        help=help,
        func=lazy_load_command(f"airflow_provider_aihandoff.cli.{function}"),
        args=(*args, _LEDGER, ARG_VERBOSE),
    )


_DB = GroupCommand(
    name="db",
    help="The ledger's schema",
    subcommands=(
        _action("upgrade", "Create the schema, or upgrade it", "db.upgrade"),
        _action("check", "Check that the schema has the version that this package needs", "db.check"),
    ),
)

_OVERVIEW = _action("overview", "Say what needs a person now", "jobs.overview", _OUTPUT)

_REVIEWERS = tuple(
    Arg((f"--{option}",), action="append", default=[], metavar="NAME", help=f"{text}; repeatable")
    for option, text in {
        "user": "Login that may decide, or cli: and an account",
        "role": "Role that may decide",
        "group": "Group that may decide",
        "escalate-user": "Login that may decide once it is escalated",
        "escalate-role": "Role that may decide once it is escalated",
        "escalate-group": "Group that may decide once it is escalated",
    }.items()
)

_CONFIRMED = (
    _REASON,
    Arg(("--count",), type=int, help="The number of jobs that would be changed, to confirm without a question"),
    Arg(("--dry-run",), action="store_true", help="Only print what would be done"),
    _OUTPUT,
)
_BULK = (*_FILTER, *_CONFIRMED)

_JOBS = GroupCommand(
    name="jobs",
    help="Jobs",
    subcommands=(
        _action("list", "List jobs, newest first", "jobs.list_jobs", *_FILTER, _LIMIT, _OUTPUT),
        _action("show", "Show everything about a job", "jobs.show", _JOB, _OUTPUT),
        _action("watch", "Follow a job, and what the model writes for it, until it has ended", "watch.watch", _JOB),
        _action(
            "resolve-submission",
            "Say what to do about a request whose answer was lost",
            "jobs.resolve_submission",
            _JOB,
            Arg(("--send-again",), action="store_true", help="Send it again; a response that runs is billed too"),
            Arg(("--fail",), action="store_true", help="Fail the job"),
            Arg(("--unknown",), type=int, help="How many unknown submissions you saw (default: as many as there are)"),
            _REASON,
        ),
        _action("cancel", "Cancel the jobs that a filter finds", "bulk.cancel", *_BULK),
        _action("rollback", "Undo what the jobs that a filter finds have written", "bulk.roll_back", *_BULK),
        _action(
            "resolve",
            "Resolve the unknown effects of the jobs that a filter finds",
            "bulk.resolve",
            Arg(("--applied",), action="store_true", help="They were applied"),
            Arg(("--not-applied",), action="store_true", help="They were not applied"),
            *_BULK,
        ),
        _action(
            "reconcile",
            "Take the next step for what no task waits for, of the jobs that a filter finds",
            "bulk.reconcile",
            *_BULK,
        ),
        _action("acknowledge", "Acknowledge the failed jobs that a filter finds", "bulk.acknowledge", *_BULK),
        _action(
            "reassign",
            "Let other people decide on the jobs that a filter finds",
            "bulk.reassign",
            *_REVIEWERS,
            *_BULK,
        ),
        _action(
            "progress",
            "Say how far a bulk action has come, without taking a step",
            "bulk.progress",
            Arg(("bulk_id",), type=int, help="Id of the bulk action"),
            Arg(("--watch",), action="store_true", help="Say it again every two seconds, until it is over"),
            _OUTPUT,
        ),
        _action(
            "resume",
            "Go on with a bulk action that was interrupted, and print its report",
            "bulk.resume",
            Arg(("bulk_id",), type=int, help="Id of the bulk action"),
            _OUTPUT,
        ),
    ),
)

_REVIEW = GroupCommand(
    name="review",
    help="The review queue and decisions",
    subcommands=(
        _action(
            "list", "List the jobs that wait for a decision, oldest first", "review.list_reviews", _DAG, _SET, _OUTPUT
        ),
        _action("show", "Show what you need to decide on a job", "review.show", _JOB, _OUTPUT),
        _action("approve", "Approve what a job would write", "review.approve", _JOB, _DIGEST, _COMMENT),
        _action("reject", "Reject what a job would write", "review.reject", _JOB, _DIGEST, _COMMENT),
        _action(
            "request-changes",
            "Ask the model for a new revision",
            "review.request_changes",
            _JOB,
            _DIGEST,
            Arg(("--comment",), required=True, help="What to change; the model reads it"),
        ),
        _action(
            "edit",
            "Edit the output yourself",
            "review.edit",
            _JOB,
            _DIGEST,
            Arg(
                ("--file",),
                help="File with the whole output, JSON or text; - for standard input (default: open an editor)",
            ),
        ),
        _action(
            "reassign",
            "Let other people decide on a job than those who are named now",
            "review.reassign",
            _JOB,
            *_REVIEWERS,
            _REASON,
        ),
        _action(
            "decide-many",
            "Approve or reject many jobs: all or none",
            "review.decide_many",
            Arg(("--approve",), action="store_true", help="Approve the jobs"),
            Arg(("--reject",), action="store_true", help="Reject the jobs"),
            Arg(
                ("--file",),
                default="-",
                help="File with a job id and its digest on each line (default: standard input)",
            ),
            _COMMENT,
        ),
    ),
)

_CANCEL = _action("cancel", "Cancel a job: none of its effects is sent from now on", "cancel.cancel", _JOB, _REASON)

_ACKNOWLEDGE = _action(
    "acknowledge",
    "Record that the failure of a job was seen: it needs no person until it fails again",
    "acknowledge.acknowledge",
    _JOB,
    Arg(("--revision",), type=int, help="The revision whose failure you saw (default: the current one)"),
    _REASON,
)

_ROLLBACK = _action(
    "rollback",
    "Undo what a job has written, the last effect first; continues a roll-back that has started",
    "rollback.rollback",
    _JOB,
    _REASON,
    Arg(
        ("--leave",),
        action="append",
        default=[],
        metavar="NAME",
        help="Name of an effect that is not undone; repeatable",
    ),
    Arg(("--yes", "-y"), action="store_true", help="Do not ask for confirmation"),
)

_PREVIEW_CLEAR = _action(
    "preview-clear",
    "Preview what clearing a Dag run would cost and write",
    "preview.preview_clear",
    Arg(("dag_id",), help="Id of the Dag"),
    Arg(("run_id",), help="Id of the run"),
    _OUTPUT,
)

_BUDGET = Arg(("budget",), help="Name or id of the budget")
_AMOUNT = Arg(("amount",), help="US dollars, such as 20 or 0.50")
_NOTIFY_AT = Arg(
    ("--notify-at",), type=lambda text: text.split(","), metavar="50,80,100", help="Percentages that are notified"
)
_OWNER = Arg(("--owner",), help="Who answers for it (default: your account)")
_ON_FULL = "What becomes of a request for which there is no room: it waits, its job fails, or it is sent all the same"

_BUDGETS = GroupCommand(
    name="budgets",
    help="How much requests to the model may cost",
    subcommands=(
        _action(
            "list",
            "List budgets, and how much of each is used",
            "budgets.list_budgets",
            Arg(("--ended",), action="store_true", help="Also those that have ended"),
            _OUTPUT,
        ),
        _action("show", "Show one budget, its periods and its history", "budgets.show", _BUDGET, _OUTPUT),
        _action(
            "add",
            "Add a budget: it is kept before each request is sent, across all workers",
            "budgets.add",
            Arg(("name",), help="Its name"),
            _AMOUNT,
            Arg(("--connection",), help="Only requests over this OpenAI connection"),
            Arg(("--type",), help="Only jobs of this type"),
            Arg(("--dag-id",), help="Only jobs of this Dag"),
            Arg(("--requester",), help="Only jobs that this user has requested"),
            Arg(("--tag",), help="Only jobs with this tag"),
            Arg(
                ("--period",),
                choices=list(Period),
                default=Period.MONTH.value,
                help="After what time it begins again (default: month)",
            ),
            Arg(("--time-zone",), default="UTC", help="Where days, weeks and months begin (default: UTC)"),
            _NOTIFY_AT,
            Arg(("--on-full",), choices=list(OnFull), default=OnFull.HOLD.value, help=f"{_ON_FULL} (default: hold)"),
            _OWNER,
            _REASON,
        ),
        _action(
            "change",
            "Change a budget from now on",
            "budgets.change",
            _BUDGET,
            Arg(("--amount",), help="US dollars for each period; valid at once"),
            Arg(("--period",), choices=list(Period), help="After what time it begins again"),
            Arg(("--time-zone",), help="Where days, weeks and months begin"),
            _NOTIFY_AT,
            Arg(("--on-full",), choices=list(OnFull), help=_ON_FULL),
            Arg(("--owner",), help="Who answers for it"),
            _REASON,
        ),
        _action(
            "raise", "Give a budget more for its current period alone", "budgets.raise_once", _BUDGET, _AMOUNT, _REASON
        ),
        _action("end", "End a budget: no request asks it from now on", "budgets.end", _BUDGET, _REASON),
    ),
)

_SPENDING = _action(
    "spending",
    "Say what was spent, by day or by anything else",
    "budgets.spending",
    Arg(("--by",), choices=list(SpentBy), default="day", help="What it is added up by (default: day)"),
    Arg(("--since",), default="30d", help="How far back, such as 7d or 12h (default: 30d)"),
    Arg(("--csv",), action="store_true", help="Print it as CSV"),
    _OUTPUT,
)

_EFFECTS = GroupCommand(
    name="effects",
    help="Writes to external systems",
    subcommands=(
        _action("list", "List effects, newest first", "effects.list_effects", _EFFECT_STATE, _LIMIT, _OUTPUT),
        _action("show", "Show one effect", "effects.show", _EFFECT, _OUTPUT),
        _action(
            "resolve",
            "Resolve an effect whose outcome is unknown",
            "effects.resolve",
            _EFFECT,
            Arg(("--applied",), metavar="EXTERNAL_ID", help="It was applied, and this is the id of its record"),
            Arg(("--not-applied",), action="store_true", help="It was not applied"),
            Arg(("--reason",), required=True, help="How you know; kept in the history"),
            Arg(("--attempt",), type=int, help="The attempt that you checked (default: the newest)"),
        ),
    ),
)

_INBOX = GroupCommand(
    name="inbox",
    help="Received webhooks, and what each of them led to",
    subcommands=(
        _action("list", "List webhooks, newest first", "inbox.list_webhooks", _DISPOSITION, _LIMIT, _OUTPUT),
        _action("show", "Show one webhook", "inbox.show", _WEBHOOK, _OUTPUT),
        _action("replay", "Process a webhook again that led to nothing", "inbox.replay", _WEBHOOK),
        _action(
            "discard",
            "Discard a webhook that is in quarantine",
            "inbox.discard",
            _WEBHOOK,
            Arg(("--reason",), required=True, help="How you know that it means nothing; kept with the webhook"),
        ),
        _action(
            "prune",
            "Remove old webhooks, except those in quarantine",
            "inbox.prune",
            Arg(
                ("--older-than-days",),
                type=float,
                help="Age in days, at least 4 (default: inbox_retention in the section aihandoff)",
            ),
        ),
    ),
)

_RECONCILE = _action(
    "reconcile",
    "Find orphaned responses, reviews, effects and webhooks, and take the next step for each",
    "reconcile.reconcile_once",
    Arg(("--dry-run",), action="store_true", help="Only print what would be done"),
    _OUTPUT,
)

_OPENAI = Arg(
    ("--openai-conn-id",), help="OpenAI connection (default: the one of webhook_conn_ids in the section aihandoff)"
)
_ENDPOINT_URL = Arg(("--url",), help="Address of the endpoint (default: the one whose path is that of the connection)")
_PRINT_SECRET = Arg(
    ("--print-secret",),
    action="store_true",
    help="Print the secret, for a connection that is not in Airflow's database",
)

_WEBHOOKS = GroupCommand(
    name="webhooks",
    help="OpenAI's webhooks",
    subcommands=(
        _action(
            "serve",
            "Receive webhooks without an API server, at the same path as in one",
            "webhooks.serve",
            Arg(("--host",), default="127.0.0.1", help="Address to listen on (default: 127.0.0.1)"),
            Arg(("--port",), type=int, default=8090, help="Port to listen on (default: 8090)"),
            Arg(
                ("--openai-conn-id",),
                action="append",
                help="OpenAI connection whose webhooks are accepted; repeatable (default: webhook_conn_ids in the "
                "section aihandoff)",
            ),
            Arg(("--ssl-certfile",), help="Certificate file, to serve HTTPS"),
            Arg(("--ssl-keyfile",), help="Key file of the certificate, if it is another file"),
            Arg(
                ("--proxy-headers",),
                action="store_true",
                help="Trust X-Forwarded-* headers of the proxies in FORWARDED_ALLOW_IPS",
            ),
        ),
        _action(
            "register",
            "Create the endpoint at OpenAI, and put its secret into the connection",
            "webhook_setup.register",
            _OPENAI,
            Arg(("--url",), help="Public address of the receiver (default: base_url in the section api, and its path)"),
            _PRINT_SECRET,
        ),
        _action(
            "rotate",
            "Get a new secret for the endpoint from OpenAI, and put it into the connection before the old one",
            "webhook_setup.rotate",
            _OPENAI,
            _ENDPOINT_URL,
            _PRINT_SECRET,
        ),
        _action(
            "test",
            "Have OpenAI send a sample event to the endpoint, and say how the receiver answered",
            "webhook_setup.test",
            _OPENAI,
            _ENDPOINT_URL,
        ),
    ),
)


_INIT = _action(
    "init",
    "Write template Dags into the Dags folder, and print the connections that they need; without a name, list them",
    "init.init",
    Arg(("template",), nargs="*", help="Name of a template to write"),
    Arg(("--folder",), metavar="PATH", help="Folder to write to (default: dags_folder in the section core)"),
)

_DOCTOR = _action(
    "doctor",
    "Examine the set-up from here: what is wrong, why it matters, and what fixes it. Exits with 1 after a warning, and "
    "with 2 after an error",
    "doctor.doctor",
    Arg(
        ("--openai-conn-id",),
        action="append",
        help="OpenAI connection to examine; repeatable (default: webhook_conn_ids in the section aihandoff)",
    ),
    Arg(
        ("--webhook-url",),
        help="Public URL of the receiver of webhooks for the first of these connections: a signed test event is sent "
        "there, and searched in the inbox",
    ),
    Arg(("--dags",), metavar="PATH", help="Dag file or folder to parse: is each effect approved first?"),
    _OUTPUT,
)


_PAUSE = _action(
    "pause",
    "Hold requests to the model, and external writes too if asked for, in the whole fleet at once",
    "pauses.pause",
    Arg(("--connection",), default=None, help="Only over this connection: OpenAI's, or with --writes a target's"),
    Arg(("--type",), default=None, help="Only jobs of this type"),
    _DAG,
    Arg(("--everything",), action="store_true", help="All jobs"),
    Arg(("--writes",), action="store_true", help="External writes too; a roll-back goes on"),
    Arg(("--cancel-running",), action="store_true", help="Cancel the jobs whose responses run in its scope"),
    _REASON,
)

_RESUME = _action(
    "resume",
    "End a pause: what it holds continues",
    "pauses.resume",
    Arg(("pause_id",), type=int, nargs="?", default=None, help="Id of the pause"),
    Arg(("--all",), action="store_true", help="End all pauses in force"),
    _REASON,
)

_PAUSES = _action(
    "pauses",
    "List the pauses in force, and what they hold",
    "pauses.pauses",
    Arg(("--ended",), action="store_true", help="Also those that have ended"),
    _OUTPUT,
)

_SPENDING_LIMITS = GroupCommand(
    name="spending-limits",
    help="Limits of money that OpenAI says are reached",
    subcommands=(
        _action("list", "List the connections whose jobs are held by one", "pauses.spending_limits", _OUTPUT),
        _action(
            "try",
            "Have it found out at once whether the limit of a connection is still reached",
            "pauses.try_now",
            Arg(("connection",), help="OpenAI connection"),
        ),
    ),
)


_LIMITED = (
    Arg(("--connection",), default=None, help="OpenAI connection: what is asked of the model over it"),
    Arg(("--target",), default=None, help="Connection of a target: external writes over it"),
    Arg(("--key",), default=None, help="Name that tasks give as rate_key"),
)

_LIMITS = GroupCommand(
    name="limits",
    help="Limits of speed, which all workers and triggerers share",
    subcommands=(
        _action("list", "List the limits in force, and what waits for them", "rate_limits.list_limits", _OUTPUT),
        _action(
            "set",
            "Set a limit, or change it; 0 stops",
            "rate_limits.set_limit",
            *_LIMITED,
            Arg(("--requests",), type=int, help="Requests, or external writes, in a period"),
            Arg(("--tokens",), type=int, help="Tokens in a period"),
            Arg(("--in-flight",), type=int, help="Responses that run, or writes that are being made, at once"),
            Arg(
                ("--per",),
                choices=tuple(PERIODS),
                help="The period (default: a minute; of a target, a second)",
            ),
            Arg(
                ("--weight",),
                action="append",
                metavar="NAME=NUMBER",
                help="What type:NAME or requester:NAME gets beside the others, which have 1; repeatable",
            ),
            _REASON,
        ),
        _action(
            "end",
            "End a limit, or all of a connection or a key",
            "rate_limits.end_limit",
            *_LIMITED,
            Arg(
                ("--measure",),
                action="append",
                choices=[measure.value for measure in Measure],
                help="Only the limit that counts this; repeatable",
            ),
            _REASON,
        ),
        _action("history", "List the changes of limits, with who and why", "rate_limits.history", _OUTPUT),
    ),
)


_SET_ID = Arg(("set_id",), type=int, help="Id of the set")

_SETS = GroupCommand(
    name="sets",
    help="Sets: many jobs of one task",
    subcommands=(
        _action("list", "List sets with their counts, newest first", "sets.list_sets", _LIMIT, _OUTPUT),
        _action(
            "show",
            "Show one set with its counts",
            "sets.show",
            _SET_ID,
            Arg(("--watch",), action="store_true", help="Show a bar of how far it has come, until it has ended"),
            _OUTPUT,
        ),
        _action("pause", "Hold each request and each external write of a set", "sets.pause", _SET_ID, _REASON),
        _action("resume", "End each pause of a set", "sets.resume", _SET_ID, _REASON),
        _action(
            "cancel",
            "Cancel the jobs of a set that were not sent to the model",
            "sets.cancel",
            _SET_ID,
            *_CONFIRMED,
        ),
    ),
)


_SUBSCRIPTION = Arg(("name",), help="Name of the subscription")
_PRINT_NEW_SECRET = Arg(
    ("--print-secret",),
    action="store_true",
    help="Only print a new secret, for a connection that is not in Airflow's database",
)

_EVENTS = GroupCommand(
    name="events",
    help="Changes of jobs, sent to your programs",
    subcommands=(
        _action(
            "subscribe",
            "Have changes of jobs sent to a URL, or change a subscription; one that is disabled is active again",
            "events.subscribe",
            _SUBSCRIPTION,
            Arg(("url",), help="Where events are sent; its host is in event_hosts in the section aihandoff"),
            Arg(
                ("--secret-conn-id",),
                required=True,
                help="Connection whose extra has the secrets that sign; it is made where there is none",
            ),
            Arg(("--type",), action="append", default=[], help="Only jobs of this type; repeatable"),
            Arg(
                ("--state",),
                action="append",
                default=[],
                choices=[standing.value for standing in Standing],
                help="Only changes to this state; repeatable",
            ),
            _PRINT_NEW_SECRET,
            _REASON,
        ),
        _action("subscriptions", "List the subscriptions, and how their events stand", "events.subscriptions", _OUTPUT),
        _action(
            "unsubscribe",
            "End a subscription, and remove what it did not get",
            "events.unsubscribe",
            _SUBSCRIPTION,
            _REASON,
        ),
        _action(
            "rotate",
            "Make a new secret, which signs beside the one before it",
            "events.rotate",
            _SUBSCRIPTION,
            Arg(("--finish",), action="store_true", help="Remove the old secret instead: the receiver knows the new"),
            _PRINT_NEW_SECRET,
        ),
        _action(
            "deliver",
            "Send events until it is stopped; any number may run",
            "events.deliver",
            Arg(("name",), nargs="?", default=None, help="Only to this subscription"),
            Arg(("--once",), action="store_true", help="Send what is due now, and end"),
        ),
        _action(
            "dead",
            "List the events that were given up, newest first",
            "events.dead",
            Arg(("name",), nargs="?", default=None, help="Only of this subscription"),
            _LIMIT,
            _OUTPUT,
        ),
        _action(
            "replay",
            "Send events again that were given up, or those that are named",
            "events.replay",
            _SUBSCRIPTION,
            Arg(("--event",), type=int, action="append", default=[], help="Id of an event; repeatable"),
            _REASON,
        ),
    ),
)


def get_commands() -> list[GroupCommand]:
    """The command group that the provider adds to `airflow`."""
    return [
        GroupCommand(
            name="aihandoff",
            help="Jobs, reviews and effects of AI Handoff",
            subcommands=(
                _INIT,
                _DB,
                _OVERVIEW,
                _JOBS,
                _REVIEW,
                _CANCEL,
                _ACKNOWLEDGE,
                _ROLLBACK,
                _PREVIEW_CLEAR,
                _BUDGETS,
                _SPENDING,
                _EFFECTS,
                _INBOX,
                _RECONCILE,
                _WEBHOOKS,
                _DOCTOR,
                _PAUSE,
                _RESUME,
                _PAUSES,
                _SPENDING_LIMITS,
                _LIMITS,
                _SETS,
                _EVENTS,
            ),
        )
    ]
