"""What a provider's webhook says of a batch, in the transaction that records the webhook."""

from __future__ import annotations

from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.generation.batch_provider import ENDED_BATCH_STATUSES, BatchStatus

_TOLD = """
    UPDATE aihandoff.batches SET provider_status = %(status)s, updated_at = clock_timestamp()
    WHERE provider_id = %(provider_id)s AND conn_id = %(conn_id)s AND state = 'running'
        AND provider_status <> ALL(%(ended)s)
    RETURNING batch_id"""
_KNOWN = "SELECT batch_id FROM aihandoff.batches WHERE provider_id = %s AND conn_id = %s"

_ENDED = [status.value for status in ENDED_BATCH_STATUSES]


def told(connection: LedgerConnection, provider_id: str, conn_id: str, status: BatchStatus) -> bool | None:
    """Write down that the provider says of a batch that it has ended.

    :return: whether that is new; None where no batch of this ledger has this id.
    """
    values = {"provider_id": provider_id, "conn_id": conn_id, "status": status, "ended": _ENDED}
    if connection.execute(_TOLD, values).fetchone() is not None:
        return True
    return None if connection.execute(_KNOWN, [provider_id, conn_id]).fetchone() is None else False
