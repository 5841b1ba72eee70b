"""Command line of the stand-in: `python -m airflow_provider_aihandoff.testing`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from airflow_provider_aihandoff.testing import faults
from airflow_provider_aihandoff.testing.openai_server import DEFAULT_DELAY_SECONDS, OpenAIStandIn
from airflow_provider_aihandoff.testing.serving import bind, run

_SECRETS_VARIABLE = "AIHANDOFF_STANDIN_WEBHOOK_SECRETS"

_NOTICE = (
    "A STAND-IN for OpenAI's Responses API, for tests and demos only. This is NOT OpenAI: no model is called, "
    "any API key is accepted, and the output is made up. Never point production at it."
)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise ValueError(text)
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_aihandoff.testing",
        description=_NOTICE,
        epilog=faults.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=8765, help="port to listen on; 0: any free one (default: %(default)s)"
    )
    parser.add_argument(
        "--delay-seconds",
        type=_seconds,
        default=DEFAULT_DELAY_SECONDS,
        help="how long a response takes, where the request does not say (default: %(default)s)",
    )
    parser.add_argument(
        "--cancel-finished-status",
        type=int,
        choices=(200, 400, 409),
        default=200,
        help="what a cancel answers after the end of the response (default: %(default)s)",
    )
    parser.add_argument(
        "--state-file",
        type=Path,
        metavar="PATH",
        help="keep responses and requests in this file, and start from what it holds",
    )
    parser.add_argument(
        "--requests-per-minute",
        type=int,
        metavar="NUMBER",
        help="refuse more creates than this with 429, as OpenAI does",
    )
    parser.add_argument("--webhook-url", metavar="URL", help="send webhooks there when background responses end")
    parser.add_argument(
        "--webhook-secret",
        action="append",
        default=[],
        metavar="SECRET",
        help="sign webhooks with this; repeat it to sign with several. Other users of the machine see what stands "
        f"here; {_SECRETS_VARIABLE} in the environment, with spaces in between, is read as well",
    )
    parser.add_argument(
        "--log-level",
        choices=("critical", "error", "warning", "info", "debug"),
        default="critical",
        help="what the HTTP server logs; at info, every request (default: %(default)s)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; the first line on standard output ends with the base URL."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        stand_in = OpenAIStandIn(
            delay_seconds=options.delay_seconds,
            cancel_finished_status=options.cancel_finished_status,
            state_file=options.state_file,
            requests_per_minute=options.requests_per_minute,
            webhook_url=options.webhook_url,
            webhook_secrets=[*options.webhook_secret, *os.environ.get(_SECRETS_VARIABLE, "").split()],
        )
    except ValueError as error:
        parser.error(str(error))
    listener, running = bind(options.host, options.port)
    sys.stdout.write(f"{_NOTICE} Listening on {running.base_url}\n")
    sys.stdout.flush()
    run(stand_in.app, listener, options.log_level)


if __name__ == "__main__":
    main()
