"""Indexes for the filters of the job list, what a job has cost in its row, and bulk actions.

Revision ID: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TOTALS = """
ALTER TABLE aihandoff.jobs
    ADD COLUMN known_cost_usd numeric NOT NULL DEFAULT 0,
    ADD COLUMN retries integer NOT NULL DEFAULT 0;
UPDATE aihandoff.jobs SET known_cost_usd = totals.cost, retries = totals.retries
FROM (
    SELECT job_id, coalesce(sum(cost_usd), 0) AS cost, sum(greatest(submissions - 1, 0)) AS retries
    FROM aihandoff.revisions GROUP BY job_id
) AS totals
WHERE totals.job_id = jobs.job_id AND (totals.cost <> 0 OR totals.retries <> 0);
CREATE FUNCTION aihandoff.total_revisions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE aihandoff.jobs SET known_cost_usd = totals.cost, retries = totals.retries
    FROM (
        SELECT coalesce(sum(cost_usd), 0) AS cost, sum(greatest(submissions - 1, 0)) AS retries
        FROM aihandoff.revisions WHERE job_id = NEW.job_id
    ) AS totals
    WHERE jobs.job_id = NEW.job_id;
    RETURN NULL;
END $$;
CREATE TRIGGER revisions_inserted AFTER INSERT ON aihandoff.revisions FOR EACH ROW
    WHEN (NEW.cost_usd IS NOT NULL OR NEW.submissions > 1) EXECUTE FUNCTION aihandoff.total_revisions();
CREATE TRIGGER revisions_updated AFTER UPDATE OF cost_usd, submissions ON aihandoff.revisions FOR EACH ROW
    WHEN (NEW.cost_usd IS DISTINCT FROM OLD.cost_usd OR (NEW.submissions <> OLD.submissions AND NEW.submissions > 1))
    EXECUTE FUNCTION aihandoff.total_revisions();
"""

POLLS = """
CREATE TABLE aihandoff.polls (
    conn_id text PRIMARY KEY,
    polled_at timestamptz NOT NULL
);
"""

BULK = """
CREATE TABLE aihandoff.bulk_actions (
    bulk_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action text NOT NULL CHECK (
        action IN ('cancel', 'roll back', 'resolve as applied', 'resolve as not applied', 'reconcile')),
    wanted json NOT NULL,
    reason text NOT NULL,
    actor_kind text NOT NULL,
    actor_name text NOT NULL,
    actor_user_id text,
    created_at timestamptz NOT NULL
);
CREATE TABLE aihandoff.bulk_jobs (
    bulk_id bigint NOT NULL REFERENCES aihandoff.bulk_actions,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    seen json NOT NULL,
    outcome text CHECK (outcome IN ('done', 'refused', 'unfinished')),
    note text,
    tried_at timestamptz,
    PRIMARY KEY (bulk_id, job_id)
);
CREATE INDEX bulk_jobs_left ON aihandoff.bulk_jobs (bulk_id, job_id) WHERE outcome IS NULL OR outcome = 'unfinished';
"""

INDEXES = """
CREATE INDEX jobs_by_age ON aihandoff.jobs (created_at, job_id);
CREATE INDEX jobs_by_state ON aihandoff.jobs (state, created_at, job_id);
CREATE INDEX jobs_by_type_and_age ON aihandoff.jobs (job_type, created_at, job_id);
CREATE INDEX jobs_by_key ON aihandoff.jobs (job_key text_pattern_ops);
CREATE INDEX jobs_by_dag ON aihandoff.jobs (dag_id, created_at, job_id);
CREATE INDEX jobs_by_task ON aihandoff.jobs (dag_id, task_id, created_at, job_id);
CREATE INDEX jobs_by_requester ON aihandoff.jobs (requested_by, created_at, job_id);
CREATE INDEX jobs_by_cost ON aihandoff.jobs (known_cost_usd, job_id) WHERE known_cost_usd > 0;
CREATE INDEX jobs_by_retries ON aihandoff.jobs (retries, job_id) WHERE retries > 0;
CREATE INDEX jobs_by_dag_and_state ON aihandoff.jobs (dag_id, state);
CREATE INDEX jobs_ended ON aihandoff.jobs (updated_at) INCLUDE (dag_id, job_type, state, known_cost_usd)
    WHERE state IN ('completed', 'rejected', 'failed', 'cancelled', 'rolled_back');
CREATE INDEX jobs_review_deadline ON aihandoff.jobs (review_deadline) WHERE state = 'review';
CREATE INDEX jobs_by_error ON aihandoff.jobs USING gin (to_tsvector('simple', left(state_reason, 10000)))
    WHERE state = 'failed';
CREATE INDEX effects_by_error ON aihandoff.effects USING gin (to_tsvector('simple', left(error, 10000)))
    WHERE error IS NOT NULL;
CREATE INDEX effects_by_external_id ON aihandoff.effects USING hash (external_id) WHERE external_id IS NOT NULL;
CREATE INDEX decisions_by_decider ON aihandoff.decisions (decided_by, job_id);
CREATE INDEX revisions_ended ON aihandoff.revisions (conn_id, completed_at)
    WHERE response_id IS NOT NULL AND completed_at IS NOT NULL;
CREATE INDEX inbox_by_job ON aihandoff.inbox (job_id, received_at) WHERE job_id IS NOT NULL;
"""


def upgrade() -> None:
    """The costs and retries of the jobs that there are, are added up."""
    op.execute(TOTALS)
    op.execute(POLLS)
    op.execute(BULK)
    op.execute(INDEXES)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
