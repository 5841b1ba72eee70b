"""What a change writes into the outbox, within the statement that makes the change: nothing where no one has asked."""

from __future__ import annotations

from airflow_provider_aihandoff.core.job_requests.job_request import Standing, standing_of_job
from airflow_provider_aihandoff.core.states import JobState

_IS_ABOUT = """s.state = 'active' AND (s.job_types = '{}' OR %(job_type)s = ANY (s.job_types))
            AND (s.states = '{}' OR %(standing)s = ANY (s.states))"""

#: After a CTE ``moved``, which has moved the job: in the order of the lines of its history, which its lock keeps.
EVENT_OF_JOB = f""", outbox AS (
        INSERT INTO aihandoff.event_deliveries (subscription_id, job_id, seq, revision, standing, at)
        SELECT s.subscription_id, moved.job_id, %(seq)s, %(revision)s, %(standing)s, %(at)s
        FROM moved CROSS JOIN aihandoff.event_subscriptions AS s
        WHERE {_IS_ABOUT})"""

#: The same for many jobs, each with its values in a CTE ``line``.
EVENT_OF_EACH_JOB = """, outbox AS (
        INSERT INTO aihandoff.event_deliveries (subscription_id, job_id, seq, revision, standing, at)
        SELECT s.subscription_id, line.job_id, line.seq, line.revision, line.standing, line.at
        FROM line JOIN moved USING (job_id, seq) CROSS JOIN aihandoff.event_subscriptions AS s
        WHERE s.state = 'active' AND (s.job_types = '{}' OR line.job_type = ANY (s.job_types))
            AND (s.states = '{}' OR line.standing = ANY (s.states)))"""

#: After a CTE ``ended``, which has ended a request of which there is no job.
EVENT_OF_REQUEST = f""", outbox AS (
        INSERT INTO aihandoff.event_deliveries (subscription_id, request_id, seq, standing, at)
        SELECT s.subscription_id, ended.request_id, 0, %(standing)s, ended.updated_at
        FROM ended CROSS JOIN aihandoff.event_subscriptions AS s
        WHERE {_IS_ABOUT.replace("%(job_type)s", "ended.job_type")})"""


def changed_standing(from_state: str | None, to_state: str) -> Standing | None:
    """How a job stands now, where that is another than before; None where those who asked see no change.

    :param from_state: the state of the job before; None where it was just made.
    """
    now = standing_of_job(JobState(to_state))
    return None if from_state is not None and standing_of_job(JobState(from_state)) is now else now
