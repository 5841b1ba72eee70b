"""Which triggerers are alive, as Airflow's metadata database has it. For processes that can reach it."""

from __future__ import annotations


def live_triggerers() -> list[str]:
    """The hosts of the triggerers that have a heartbeat."""
    from airflow.jobs.job import Job
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        jobs = session.scalars(select(Job).where(Job.job_type == "TriggererJob", Job.state == "running")).all()
        return [str(job.hostname) for job in jobs if job.is_alive()]
