"""Where Airflow keeps what a task must not lose while the ledger is unavailable: over its retries and clears."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.task_states import owner_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.models import Owner
    from airflow_provider_aihandoff.core.second_memory import Facts, Memory


def memory_of(context: Context) -> Memory:
    """The memory of the task that runs now, over the task's API. Never an XCom: each attempt begins without those."""
    store = context.get("task_state_store")
    return _Variables(owner_of(context)) if store is None else _TaskState(store)


class _TaskState:
    """Airflow's task state store (3.3 and newer), which belongs to one task of one Dag run."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def keep(self, name: str, facts: Facts) -> None:
        self._store.set(name, dict(facts))

    def read(self, name: str) -> Facts | None:
        facts: Facts | None = self._store.get(name)
        return facts

    def forget(self, name: str) -> None:
        self._store.delete(name)


class _Variables:
    """Airflow's variables, one for each fact that is kept, for releases without a task state store."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def keep(self, name: str, facts: Facts) -> None:
        from airflow.sdk import Variable

        owner = self._owner
        description = f"{owner.dag_id} {owner.run_id} {owner.task_id}: kept while the ledger was unavailable. Its next "
        Variable.set(self._key(name), json.dumps(dict(facts)), description=f"{description}attempt removes it.")

    def read(self, name: str) -> Facts | None:
        from airflow.sdk import Variable

        text = Variable.get(self._key(name), default=None)
        facts: Facts | None = None if text is None else json.loads(text)
        return facts

    def forget(self, name: str) -> None:
        from airflow.sdk import Variable

        Variable.delete(self._key(name))

    def _key(self, name: str) -> str:
        """At most 250 characters, whatever the Dag and the run are called."""
        owner = self._owner
        task = json.dumps([owner.dag_id, owner.run_id, owner.task_id, owner.map_index])
        return f"{name}.{hashlib.sha256(task.encode()).hexdigest()[:32]}"
