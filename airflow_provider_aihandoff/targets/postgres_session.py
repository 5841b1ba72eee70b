"""A connection to a PostgreSQL target as Airflow's hook makes it, bounded as a whole.

PostgreSQL's own time-outs end a statement only where the server still runs and the network still brings its answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from airflow_provider_aihandoff.core.call_watch import CallWatch

#: libpq's parameters, where the extra of the connection has no others. Seconds; ``tcp_user_timeout``: milliseconds.
CONNECTION_DEFAULTS = {
    "connect_timeout": 10,
    # A peer that vanished is noticed in about a minute, not after the hours of the system's defaults.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


def open_session(hook: Any, seconds: float) -> AbstractContextManager[Any]:
    """Connect; the connection is closed at the end of the block, and cut after this time.

    :param hook: Airflow's PostgresHook.
    :raises Exception: the driver's OperationalError where there is no connection.
    """
    named = hook.connection
    named.extra = json.dumps({**CONNECTION_DEFAULTS, **named.extra_dejson})
    return _watched(hook.get_conn(), seconds)


@contextmanager
def _watched(connection: Any, seconds: float) -> Iterator[Any]:
    watch = CallWatch(seconds, seconds)
    try:
        watch.connected(connection)
        yield connection
    finally:
        watch.close()
        connection.close()
