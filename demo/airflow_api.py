"""A small client of Airflow's REST API, as a logged-in person would use it."""

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import httpx

from demo.waiting import AIRFLOW_SECONDS, wait_until

Result = TypeVar("Result")
FINISHED = frozenset({"success", "failed"})
UNREACHABLE = (httpx.TransportError, httpx.HTTPStatusError)


class AirflowApiError(RuntimeError):
    """Airflow refused a request; the message holds its answer."""


@dataclass(frozen=True)
class TaskInstance:
    """What Airflow says about one task of one run."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    id: str

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Self:
        """Read it from Airflow's answer."""
        return cls(item["task_id"], item["map_index"], item["state"], item["try_number"], item["id"])


class AirflowApi:
    """Requests as one user; logs in with the first one.

    :param base_url: of the API server, without a path.
    :param trusted: what its certificate is checked with; by default the authorities that everyone trusts.
    """

    def __init__(self, base_url: str, username: str, password: str, *, trusted: ssl.SSLContext | None = None) -> None:
        self.username = username
        self._password = password
        one_each = httpx.Limits(max_keepalive_connections=0)  # a server that restarts leaves no dead connection
        self._client = httpx.Client(
            base_url=base_url, timeout=60, trust_env=False, limits=one_each, verify=True if trusted is None else trusted
        )
        self._token: str | None = None

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request to any path of the API server, plugins included, with the user's token.

        :param options: of `httpx.Client.request`, such as `json` and `params`.
        """
        if self._token is None:
            self._token = self._log_in()
        return self._client.request(method, path, headers={"Authorization": f"Bearer {self._token}"}, **options)

    @contextmanager
    def stream(self, path: str) -> Iterator[httpx.Response]:
        """Open an answer that comes in parts, such as server-sent events.

        :raises AirflowApiError: Airflow refuses it.
        """
        if self._token is None:
            self._token = self._log_in()
        with self._client.stream("GET", path, headers={"Authorization": f"Bearer {self._token}"}) as response:
            if response.is_error:
                raise AirflowApiError(f"GET {path}: {response.status_code}")
            yield response

    def json(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and return the answer's JSON.

        :raises AirflowApiError: when Airflow refuses it (4xx).
        :raises httpx.HTTPStatusError: when it fails (5xx), which may pass.
        """
        response = self.request(method, path, **options)
        if response.is_client_error:
            raise AirflowApiError(f"{method} {path}: {response.status_code} {response.text}")
        response.raise_for_status()
        return response.json() if response.content else None

    def health(self) -> dict[str, Any]:
        """Return the state of the components as Airflow's monitor has it."""
        response = self._client.get("/api/v2/monitor/health")
        response.raise_for_status()
        return dict(response.json())

    def dag_ids(self) -> set[str]:
        """Return the Dags that Airflow has parsed."""
        return {dag["dag_id"] for dag in self.json("GET", "/api/v2/dags", params={"limit": 1000})["dags"]}

    def import_errors(self) -> list[str]:
        """Return the errors of the Dag files that could not be parsed."""
        errors = self.json("GET", "/api/v2/importErrors", params={"limit": 1000})["import_errors"]
        return [f"{error['filename']}: {error['stack_trace']}" for error in errors]

    def set_paused(self, dag_id: str, paused: bool) -> None:
        """Pause or unpause a Dag."""
        self.json("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": paused})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, run_id: str | None = None) -> str:
        """Start a Dag run and return its id."""
        body = {"logical_date": None, "conf": dict(conf or {})} | ({"dag_run_id": run_id} if run_id else {})
        return str(self.json("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def runs(self, dag_id: str) -> dict[str, str]:
        """Return the state of each run of a Dag, the newest first."""
        parameters = {"limit": 1000, "order_by": "-run_after"}
        runs = self.json("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=parameters)["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in runs}

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        return str(self.json("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Return the task instances of a run, mapped ones included."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return [TaskInstance.from_json(item) for item in self._pages(path, "task_instances")]

    def task_states(self, dag_id: str, run_id: str) -> dict[tuple[str, int], str | None]:
        """Return the states of a run's task instances by task id and map index (-1: not mapped)."""
        return {(task.task_id, task.map_index): task.state for task in self.task_instances(dag_id, run_id)}

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return a value that a task left for others."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.json("GET", path, params={"map_index": map_index})["value"]

    def clear(
        self, dag_id: str, run_id: str, task_ids: Sequence[str] | None = None, *, only_failed: bool = False
    ) -> None:
        """Clear tasks of a run, or all of them, so that they run again."""
        body = {"dry_run": False, "dag_run_id": run_id, "only_failed": only_failed, "reset_dag_runs": True}
        if task_ids:
            body["task_ids"] = list(task_ids)
        self.json("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", json=body)

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try of a task."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        content = self.json("GET", path, params={"map_index": map_index, "full_content": True})["content"]
        return "\n".join(line["event"] if isinstance(line, dict) else line for line in content)

    def wait_for(self, condition: Callable[[], Result | None], what: str, timeout_seconds: float) -> Result:
        """Wait until a condition holds; an API server that is unavailable meanwhile is waited for, too."""

        def patient() -> Result | None:
            try:
                return condition()
            except UNREACHABLE:
                return None

        return wait_until(patient, what, timeout_seconds, every_seconds=0.3)

    def wait_for_dags(self, dag_ids: set[str], timeout_seconds: float = AIRFLOW_SECONDS) -> None:
        """Wait until Dags are parsed.

        :raises AirflowApiError: when one of the Dag files cannot be parsed.
        """

        def parsed() -> bool:
            if errors := self.import_errors():
                raise AirflowApiError("A Dag file could not be parsed: " + "\n".join(errors))
            return dag_ids <= self.dag_ids()

        self.wait_for(parsed, f"the Dags {', '.join(sorted(dag_ids))}", timeout_seconds)

    def wait_for_run(self, dag_id: str, run_id: str, timeout_seconds: float = AIRFLOW_SECONDS) -> str:
        """Wait until a run has finished, and return its state."""

        def finished() -> str | None:
            state = self.run_state(dag_id, run_id)
            return state if state in FINISHED else None

        return self.wait_for(finished, f"the end of {dag_id} {run_id}", timeout_seconds)

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        states: set[str],
        timeout_seconds: float = AIRFLOW_SECONDS,
        map_index: int = -1,
    ) -> str:
        """Wait until a task is in one of some states, and return which."""

        def reached() -> str | None:
            state = self.task_states(dag_id, run_id).get((task_id, map_index))
            return state if state in states else None

        return self.wait_for(reached, f"{dag_id} {task_id} to be {' or '.join(sorted(states))}", timeout_seconds)

    def _log_in(self) -> str:
        body = {"username": self.username, "password": self._password}
        response = self._client.post("/auth/token", json=body)
        if response.is_client_error:
            raise AirflowApiError(f"Airflow does not let {self.username} in: {response.status_code} {response.text}")
        response.raise_for_status()
        return str(response.json()["access_token"])

    def _pages(self, path: str, key: str, size: int = 100) -> list[Any]:
        items: list[Any] = []
        while True:
            page = self.json("GET", path, params={"limit": size, "offset": len(items)})
            items += page[key]
            if not page[key] or len(items) >= page["total_entries"]:
                return items
