"""One worker of `jobs_per_second`: makes its jobs one after the other, and says what it has spent its time in.

Run as ``python -m benchmarks.jobs_worker NUMBER JOBS [--set]``. It makes one job, says ``ready``, waits for a line,
makes the others, and prints seconds and CPU as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import openai
from airflow.sdk import DAG

from airflow_provider_aihandoff.core.database.connection import Database
from airflow_provider_aihandoff.hooks.model_provider import load_sdk
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from airflow_provider_aihandoff.policies import MinimumConfidence
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.targets import http_exchange
from benchmarks.sets_request import INSTRUCTIONS, MODEL, Label
from benchmarks.task_runs import DagRun, only_errors

_TEXT = "I was charged twice for the invoice of March, and would like to have one of them back. " * 4


class Clock:
    """Seconds that were spent in calls, by what was called; a call within another one counts for the outer one."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._inside = False

    @contextmanager
    def _counting(self, name: str) -> Iterator[None]:
        if self._inside:
            yield
            return
        self._inside, began = True, time.perf_counter()
        try:
            yield
        finally:
            self._inside = False
            self.spent[name] += time.perf_counter() - began

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Count the time in a method."""
        original: Callable[..., Any] = getattr(owner, method)

        @wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self._counting(name):
                return original(*args, **kwargs)

        setattr(owner, method, counted)


def make_dag(worker: str, *, as_set: bool, items: list[dict[str, str]]) -> DAG:
    """The Dag of one job, or of a set."""
    asked: dict[str, Any] = {"model": MODEL, "instructions": INSTRUCTIONS, "output_type": Label}
    with DAG(f"worker_{worker}", schedule=None) as dag:
        draft: Any
        if as_set:
            draft = OpenAIResponseSetOperator(
                task_id="draft",
                items=items,
                job_type=f"ticket {worker}",
                job_key="{{ item.id }}",
                input="{{ item.text }}",
                set_key="{{ run_id }}",
                **asked,
            )
        else:
            draft = OpenAIBackgroundResponseOperator(
                task_id="draft",
                job_type=f"ticket {worker}",
                job_key="{{ params.id }}",
                input="{{ params.text }}",
                **asked,
            )
        approve = ApprovalSensor(task_id="approve", job=draft, policy=MinimumConfidence(0.0))
        write = HttpSideEffectOperator(
            task_id="write",
            job=draft,
            http_conn_id="channel",
            method="POST",
            endpoint="/channel/messages",
            json={"channel": "benchmark", "text": "{{ job.output.suggested_reply or 'no reply' }}"},
        )
        draft >> approve >> write
    return dag


def make_jobs(dag: DAG, items: list[dict[str, str]], *, as_set: bool) -> None:
    """Draft, approve and write all of them."""
    runs = (
        [DagRun(dag, f"run {items[0]['id']}")] if as_set else [DagRun(dag, f"run {each['id']}", each) for each in items]
    )
    for run in runs:
        for task_id in ("draft", "approve", "write"):
            run.execute(task_id)


def main() -> None:
    """Make the jobs."""
    worker, jobs, as_set = sys.argv[1], int(sys.argv[2]), "--set" in sys.argv
    only_errors()
    load_sdk()
    clock = Clock()
    clock.watch(Database, "_transact", "ledger")
    clock.watch(Database, "close", "ledger")
    clock.watch(openai.OpenAI, "request", "model")
    clock.watch(http_exchange, "exchange_of", "target")
    items = [{"id": f"{number}", "text": f"Ticket {number}: {_TEXT}"} for number in range(jobs + 1)]
    make_jobs(make_dag(worker, as_set=as_set, items=items[-1:]), items[-1:], as_set=as_set)
    print("ready", flush=True)
    sys.stdin.readline()
    clock.spent.clear()
    dag = make_dag(worker, as_set=as_set, items=items[:-1])
    began, cpu = time.perf_counter(), time.process_time()
    make_jobs(dag, items[:-1], as_set=as_set)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    spent = {**clock.spent, "rest": seconds - sum(clock.spent.values())}
    print(json.dumps({"seconds": seconds, "cpu": cpu, "spent": spent}), flush=True)


if __name__ == "__main__":
    main()
