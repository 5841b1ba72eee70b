"""Take back what one job has written, from Airflow's UI."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import Param, dag

from airflow_provider_aihandoff.operators.rollback import RollbackOperator


@dag(
    schedule=None,
    params={
        "job": Param(
            title="Job",
            type="integer",
            minimum=1,
            description="The id of the job, as its page and `airflow aihandoff jobs list` show it",
        ),
        "why": Param(
            title="Why",
            type="string",
            pattern=r"\S",
            description="Why its effects are undone. It goes on the record, with your name",
        ),
        "leave": Param(
            [],
            title="Leave as they are",
            type=["array", "null"],
            items={"type": "string"},
            description="Names of effects that are not to be undone, each on a line of its own: those without an undo",
        ),
    },
    tags=["aihandoff"],
    doc_md="""
    Undoes each applied effect of a job, the last one first. The job's page shows what would be sent, and which effect
    has no undo: look there first.

    **Nothing starts** where there is no such job, where nothing of it is applied or something is under way, and where
    an effect has no undo and is not left.

    **It waits** without a worker slot for a person where nobody knows what became of an undo, and goes on by itself.

    **Running it again**, or clearing it, is safe: what is undone is not sent again, the rest is gone on with.

    **Connections**: `aihandoff_ledger`, and those that the undos name. Undos that are functions must be importable by
    the workers.

    **Whoever may trigger this Dag** may roll back any job of this ledger.
    """,
)
def aihandoff_rollback() -> None:
    RollbackOperator(
        task_id="roll_back",
        job="{{ params.job }}",
        reason="{{ params.why }}"
        "{% if dag_run.triggering_user_name | default %} (asked for by {{ dag_run.triggering_user_name }}){% endif %}",
        leave="{{ params.leave | tojson }}",
    )


aihandoff_rollback()
