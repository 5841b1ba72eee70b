"""Whether a package can use a ledger, by what the ledger says of its schema."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.database.schema import LedgerVersion, check_version, head_version
from airflow_provider_aihandoff.core.errors import LedgerSchemaError

HEAD = head_version()
LATER = f"{int(HEAD) + 1:04}"


@pytest.mark.parametrize(
    "ledger",
    [LedgerVersion(HEAD), LedgerVersion(HEAD, LATER), LedgerVersion("9999", HEAD), LedgerVersion("9999", "0001")],
)
def test_a_ledger_of_this_release_or_of_a_newer_one_that_serves_it_is_used(ledger: LedgerVersion) -> None:
    check_version(ledger)


@pytest.mark.parametrize(
    ("ledger", "said"),
    [
        (None, "has no AI Handoff ledger"),
        (LedgerVersion("0001", "0001"), f"at version 0001, this package needs {HEAD}"),
        (LedgerVersion("9999"), "does not know"),
        (LedgerVersion("9999", LATER), "does not know"),
    ],
)
def test_any_other_is_refused_and_what_to_do_is_said(ledger: LedgerVersion | None, said: str) -> None:
    with pytest.raises(LedgerSchemaError, match=said) as error:
        check_version(ledger)
    assert error.value.remedy
