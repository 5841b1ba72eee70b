"""Roll back what one job has written, from Airflow's UI."""

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
        "reason": Param(
            title="Reason",
            type="string",
            pattern=r"\S",
            description="Why you undo its effects. It goes on the record, with your name",
        ),
        "leave": Param(
            [],
            title="Leave as they are",
            type=["array", "null"],
            items={"type": "string"},
            description="Names of effects that you want to keep, each on a line of its own. Name those without an undo",
        ),
    },
    tags=["aihandoff"],
    doc_md="""
    Undoes each applied effect of a job, the last one first. Open the job's page first: it shows what would be sent,
    and which effect has no undo.

    **Nothing starts** if there is no such job, if none of its effects is applied, if one is in progress, or if one has
    no undo and you do not leave it.

    **It waits** for you, without a worker slot, if the outcome of an undo is unknown. It continues by itself after you
    have resolved it.

    **You can run it again**, or clear it: what is undone is not sent again, and the run continues with the rest.

    **You need the connections** `aihandoff_ledger`, and those that the undos name. Your workers must be able to import
    undos that are functions.

    **A user who may trigger this Dag** may roll back any job of this ledger.
    """,
)
def aihandoff_rollback() -> None:
    RollbackOperator(
        task_id="roll_back",
        job="{{ params.job }}",
        reason="{{ params.reason }}"
        "{% if dag_run.triggering_user_name | default %} (asked for by {{ dag_run.triggering_user_name }}){% endif %}",
        leave="{{ params.leave | tojson }}",
    )


aihandoff_rollback()
