"""Which jobs belong to a Dag run: those that it has made or attached to, whichever run owns them by now. SQL alone."""

from __future__ import annotations

#: A condition on a job; NULL as ``run_id`` leaves out nothing. Only the ids are found here, each Dag by its index: the
#: id of a run says nothing without its Dag. An array, so that the jobs themselves are found by their ids.
OF_RUN = """(%(run_id)s::text IS NULL OR job_id = ANY(ARRAY(
        WITH RECURSIVE owners AS (
            (SELECT dag_id FROM aihandoff.jobs ORDER BY dag_id LIMIT 1)
            UNION ALL
            SELECT (SELECT dag_id FROM aihandoff.jobs WHERE dag_id > owners.dag_id ORDER BY dag_id LIMIT 1)
            FROM owners WHERE owners.dag_id IS NOT NULL
        ), actors AS (
            (SELECT actor_dag_id AS dag_id FROM aihandoff.events
             WHERE actor_kind = 'task' ORDER BY actor_dag_id LIMIT 1)
            UNION ALL
            SELECT (SELECT actor_dag_id FROM aihandoff.events
                WHERE actor_kind = 'task' AND actor_dag_id > actors.dag_id ORDER BY actor_dag_id LIMIT 1)
            FROM actors WHERE actors.dag_id IS NOT NULL
        )
        SELECT own.job_id FROM owners CROSS JOIN LATERAL (
            SELECT job_id FROM aihandoff.jobs WHERE jobs.dag_id = owners.dag_id AND jobs.run_id = %(run_id)s OFFSET 0
        ) AS own
        UNION ALL
        SELECT came.job_id FROM actors CROSS JOIN LATERAL (
            SELECT job_id FROM aihandoff.events
            WHERE actor_kind = 'task' AND actor_dag_id = actors.dag_id AND actor_run_id = %(run_id)s OFFSET 0
        ) AS came)))"""
