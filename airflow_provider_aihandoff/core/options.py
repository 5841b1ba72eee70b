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
    "ledger_conn_id": Option("string", "aihandoff_ledger", "Connection (type Postgres) to the ledger."),
    "response_deadline": Option(
        "float",
        "86400",
        "Maximum seconds for a response, unless the operator sets its own deadline.",
    ),
    "inline_wait": Option(
        "float",
        "3",
        "Seconds for which a worker waits for a response before the task defers.",
    ),
    "poll_interval": Option(
        "float",
        "5",
        "Polling interval in seconds while no webhooks arrive; it grows to six times this value.",
    ),
    "poll_interval_with_webhooks": Option(
        "float",
        "300",
        "Polling interval in seconds while webhooks arrive on the connection.",
    ),
    "webhook_silence": Option(
        "float",
        "120",
        "Seconds without a webhook after which a connection counts as silent, and its responses are polled more often.",
    ),
    "poll_rate": Option("float", "10", "Maximum polls of responses per second, for each triggerer and ledger."),
    "sweep_interval": Option(
        "float",
        "10",
        "Seconds between two checks of the ledger for all waiting triggers of a triggerer. Notified changes are seen "
        "at once; this covers lost notifications.",
    ),
    "orphan_wait": Option(
        "float",
        "30",
        "Minimum seconds to wait for a webhook that names the response of a request whose answer was lost, before the "
        "request is sent again. Only where webhooks are known to arrive.",
    ),
    "webhook_conn_ids": Option(
        "string",
        "openai_default",
        "OpenAI connections whose webhooks are accepted, separated by commas. The receiver's path ends with the "
        "connection.",
    ),
    "webhook_body_limit": Option("integer", "65536", "Maximum size of a webhook, in bytes."),
    "inbox_retention": Option(
        "float",
        "2592000",
        "Seconds for which the inbox keeps a webhook, to recognise it when it is delivered again. Keep it well above "
        "the 72 hours for which OpenAI retries.",
    ),
    "min_deferral": Option(
        "float",
        "8",
        "Minimum seconds for which a task stays deferred. With the default configuration, Airflow can lose a task "
        "that resumes sooner. Lower it together with [workers] min_heartbeat_interval.",
    ),
    "approvals_wait_in": Option(
        "string",
        "awaiting_input",
        "Where approval tasks wait, unless the sensor says otherwise. awaiting_input: Airflow parks them, without a "
        "triggerer, and lists them in Required Actions (as of Airflow 3.3; before, they wait in a triggerer). "
        "triggerer: they are deferred. Approvals of sets always wait in a triggerer.",
    ),
    "digest_key": Option(
        "string",
        "",
        "Key for the digests of plans (HMAC-SHA256), which cover the secrets in the plans. If empty, a key in the "
        "ledger is used; then anyone who can read the whole ledger could test guesses of a secret. A new key changes "
        "the digest of every plan: plans that are approved but not applied need a new approval.",
        sensitive=True,
    ),
    "function_modules": Option(
        "string",
        "",
        "Python modules and packages, separated by commas, whose functions a roll-back may import and call. If empty, "
        "every module may that marks the function with @rollback_function in its source. The mark is needed in any "
        "case.",
    ),
    "trace_content": Option(
        "boolean",
        "False",
        "Also put the input and the output of the model into the spans of its calls, where Airflow traces. They are "
        "masked and cut off; anyone who can read your traces can read them.",
    ),
    "tool_prices": Option(
        "string",
        "",
        "What one call of each of OpenAI's own tools costs, in US dollars, as a JSON object, such as "
        '{"web_search": 0.01, "file_search": 0.0025}. A tool that is not named has no known price.',
    ),
    "service_accounts": Option(
        "string",
        "",
        "Logins, separated by commas, that may ask for jobs in the name of another user. Both are on the record.",
    ),
    "event_hosts": Option(
        "string",
        "",
        "Hosts to which events may be sent, separated by commas: hooks.example.com, hooks.example.com:8443, or "
        "*.example.com for all below it. If empty, no one can subscribe.",
    ),
    "event_internal_hosts": Option(
        "string",
        "",
        "Further hosts to which events may be sent, and whose addresses may be inside of your network. With http:// "
        "before a host, it is called without TLS.",
    ),
    "requests_per_minute": Option(
        "integer",
        "120",
        "How many requests for jobs one requester may make in a minute, of all types together, over all API servers. "
        "Repeats do not count.",
    ),
    "request_page_frame_ancestors": Option(
        "string",
        "'self'",
        "Which sites may show the page of a request in a frame, as frame-ancestors of a Content-Security-Policy names "
        "them.",
    ),
    "xcom_output_limit": Option(
        "integer",
        "8192",
        "Maximum size in bytes of a parsed output that is also stored in the XCom. The ledger always stores it.",
    ),
}
