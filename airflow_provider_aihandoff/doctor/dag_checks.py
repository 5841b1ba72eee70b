"""Examines Dag files, which are run to parse them: effects that nothing approves, or not before they may run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_aihandoff import airflow_compat
from airflow_provider_aihandoff.doctor.finding import Finding, Level
from airflow_provider_aihandoff.operators.job_tasks import approval_task, draft_task, effect_tasks, sources

_WHY = "The effect fails with JobNotApproved, and no one is asked."


def check_dags(folder: str) -> Iterator[Finding]:
    """Examine the Dags of a file or a folder.

    :param folder: its path.
    """
    bag = airflow_compat.dag_bag()(folder, load_op_links=False)
    for file, error in sorted(bag.import_errors.items()):
        last = error.strip().splitlines()[-1]
        yield Finding(
            Level.WARNING, f"Dag file {file}", last, "Its Dags do not run, and were not examined.", "Fix the file."
        )
    found = [finding for _, dag in sorted(bag.dags.items()) for finding in check_dag(dag)]
    yield from found
    if not found:
        what = f"{len(bag.dags)} Dags were parsed; each effect in them is approved first, or needs no approval."
        yield Finding(Level.OK, "Dags", what)


def check_dag(dag: Any) -> Iterator[Finding]:
    """Examine the effects of one Dag."""
    for source in sources(dag):
        approval, draft = approval_task(dag, source), draft_task(dag, source)
        effects = effect_tasks(dag, source)
        waiting = {effect.task_id for effect in effects if _argument(effect, "wait_for_decisions", False)}
        for effect in effects:
            subject = f"Dag {dag.dag_id}"
            if approval is not None:
                before = effect.get_flat_relative_ids(upstream=True)
                if approval.task_id not in before and not waiting & {effect.task_id, *before}:
                    what = f"The effect {effect.task_id!r} does not come after the approval {approval.task_id!r}."
                    fix = f"Set the order: {approval.task_id} >> {effect.task_id}."
                    yield Finding(Level.ERROR, subject, what, "It may run before the decision, and fails then.", fix)
            elif draft is not None and _needs_approval(draft):
                what = f"No task approves the effect {effect.task_id!r}, and {source!r} needs an approval."
                fix = "Put an ApprovalSensor before it, or give the draft approval='not required' with a reason."
                yield Finding(Level.ERROR, subject, what, _WHY, fix)


def _needs_approval(draft: Any) -> bool:
    return bool(_argument(draft, "approval", "required") == "required")


def _argument(task: Any, name: str, default: Any) -> Any:
    """An argument of a task, mapped or not."""
    partial: Mapping[str, Any] | None = getattr(task, "partial_kwargs", None)
    return getattr(task, name) if partial is None else partial.get(name, default)
