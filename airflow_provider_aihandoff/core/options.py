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
    sensitive: bool = False


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
    "poll_interval": Option(
        "float",
        "5",
        "Seconds between two looks at a response while webhooks are silent; grows to six times as much.",
    ),
    "poll_interval_with_webhooks": Option(
        "float",
        "300",
        "Seconds between two looks at a response while webhooks arrive on its connection.",
    ),
    "webhook_silence": Option(
        "float",
        "120",
        "Seconds without a webhook after which a connection counts as silent, and its responses are looked at again.",
    ),
    "poll_rate": Option("float", "10", "Looks at responses a second, at most, for each triggerer and ledger."),
    "sweep_interval": Option(
        "float",
        "10",
        "Seconds between two looks at the ledger for all that waits in a triggerer. A change is seen at once when it "
        "is notified; this is for notifications that get lost.",
    ),
    "orphan_wait": Option(
        "float",
        "30",
        "Seconds to wait for a webhook that brings the response of a request whose answer was lost, before the request "
        "is sent once more.",
    ),
    "webhook_conn_ids": Option(
        "string",
        "openai_default",
        "OpenAI connections whose webhooks are taken, separated by commas; the path of the receiver ends with one.",
    ),
    "webhook_body_limit": Option("integer", "65536", "Bytes of the largest webhook that is read."),
    "inbox_retention": Option(
        "float",
        "2592000",
        "Seconds for which the inbox remembers a webhook, to recognise it when it is delivered again: well above the "
        "72 hours for which OpenAI does so.",
    ),
    "min_deferral": Option(
        "float",
        "8",
        "Seconds for which a task stays deferred at least. With the default configuration, Airflow can lose a task "
        "that resumes sooner; lower it together with [workers] min_heartbeat_interval.",
    ),
    "digest_key": Option(
        "string",
        "",
        "The key of the digests of plans (HMAC-SHA256), which cover the secrets in them. Empty: one that is kept in "
        "the ledger, so that whoever reads the whole ledger could try secrets out. Changing it changes the digest of "
        "every plan: those that are approved and not applied are asked about anew.",
        sensitive=True,
    ),
    "xcom_output_limit": Option(
        "integer",
        "8192",
        "Bytes up to which a parsed output is also put into the XCom. The ledger holds it in any case.",
    ),
}
