"""`airflow aihandoff doctor`: what is set up, what is missing, and what fixes it."""

from __future__ import annotations

import sys
from argparse import Namespace

from airflow_provider_aihandoff.cli.common import as_typed, command, print_rows, say
from airflow_provider_aihandoff.doctor.examine import checks_of, findings_of
from airflow_provider_aihandoff.doctor.finding import EXIT_CODES, worst
from airflow_provider_aihandoff.hooks.webhook_secrets import configured_conn_ids


@command
def doctor(args: Namespace) -> None:
    """Examine the set-up from here. Exits with 0, with 1 after a warning, and with 2 after an error."""
    conn_ids = args.openai_conn_id or configured_conn_ids()
    checks = checks_of(args.conn_id, conn_ids, args.webhook_url, args.dags)
    findings = [finding for check in checks for finding in findings_of(check)]
    if args.output == "table":
        for finding in findings:
            say(f"{finding.level.value:<8} {finding.subject}: {finding.what}")
            for line in (finding.why, finding.fix and f"Fix: {as_typed(finding.fix)}"):
                if line:
                    say(f"{'':<8} {line}")
    else:
        print_rows([vars(finding) for finding in findings], args.output)
    sys.exit(EXIT_CODES[worst(findings)])
