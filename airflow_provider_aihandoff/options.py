"""The options of the configuration section ``[aihandoff]``: the one place that names them. Imports nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

SECTION = "aihandoff"


class Option(NamedTuple):
    """One option, as Airflow's configuration describes options."""

    type: str
    default: str
    description: str


OPTIONS: Mapping[str, Option] = {
    "ledger_conn_id": Option("string", "aihandoff_ledger", "Connection (type Postgres) of the ledger."),
    "response_deadline": Option(
        "float",
        "86400",
        "Seconds that a response may take, where the operator sets no deadline of its own.",
    ),
    "inline_wait": Option(
        "float",
        "3",
        "Seconds for which a worker waits for a response by itself before the task defers.",
    ),
    "poll_interval": Option("float", "5", "Seconds between two looks at a response; grows to six times as much."),
    "decision_poll_interval": Option("float", "2", "Seconds between two looks at whether somebody has decided."),
    "min_deferral": Option(
        "float",
        "8",
        "Seconds for which a task stays deferred at least. With the default configuration, Airflow can lose a task "
        "that resumes sooner; lower it together with [workers] min_heartbeat_interval.",
    ),
    "xcom_output_limit": Option(
        "integer",
        "8192",
        "Bytes up to which a parsed output is also put into the XCom. The ledger holds it in any case.",
    ),
}
