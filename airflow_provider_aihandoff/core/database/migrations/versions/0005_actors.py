"""Who acted, as columns; hashes that cover them; and polls of OpenAI by that name.

Revision ID: 0005

The facts of earlier rows are read out of their texts, once, in the way that the earlier code read them:

* ``task:DAG/RUN/TASK[INDEX]#TRY``: only the id of a run may have a slash.
* ``user:NAME (ID)``: the name ends at the first ``" ("``, so that a login with ``" ("`` in it is cut there. It needs
  the bracket at the end; a text without one is a login as a whole.
* ``user:cli:NAME``, without an id: an account at a terminal. A login with an id that begins with ``cli:`` is a login.
* ``model``, as the author of a revision: the model.
* what has none of the forms is the name of another program.

``str()`` of the facts is the text that was there, whatever it was: :func:`history.first_break` compares the two.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE aihandoff.revisions
    ADD COLUMN author_kind text NOT NULL DEFAULT 'model' CHECK (author_kind IN ('model', 'user', 'terminal')),
    ADD COLUMN author_id text;
ALTER TABLE aihandoff.revisions ALTER COLUMN author_kind DROP DEFAULT;
ALTER TABLE aihandoff.decisions
    ADD COLUMN decided_by_id text,
    DROP CONSTRAINT decisions_decided_by_kind_check,
    ADD CONSTRAINT decisions_decided_by_kind_check CHECK (decided_by_kind IN ('user', 'terminal', 'policy', 'timeout'));
ALTER TABLE aihandoff.inbox RENAME COLUMN looks TO polls;
ALTER TABLE aihandoff.inbox RENAME COLUMN look_at TO poll_at;
ALTER TABLE aihandoff.events
    ADD COLUMN actor_kind text CHECK (actor_kind IN (
        'task', 'user', 'terminal', 'policy', 'timeout', 'webhook', 'reconciler', 'other')),
    ADD COLUMN actor_name text,
    ADD COLUMN actor_user_id text,
    ADD COLUMN actor_dag_id text,
    ADD COLUMN actor_run_id text,
    ADD COLUMN actor_task_id text,
    ADD COLUMN actor_map_index integer,
    ADD COLUMN actor_try_number integer,
    ADD COLUMN hash_version smallint NOT NULL DEFAULT 1;
"""

#: From PostgreSQL 18 on, NOT NULL is a constraint with a name, which a renamed column leaves as it was.
NAMES = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_constraint
            WHERE conrelid = 'aihandoff.inbox'::regclass AND conname = 'inbox_looks_not_null') THEN
        ALTER TABLE aihandoff.inbox RENAME CONSTRAINT inbox_looks_not_null TO inbox_polls_not_null;
    END IF;
END $$;
"""

#: A person as a text names them, as ``kind``, ``name`` and ``id``.
_PERSON = """
    CASE WHEN {text} LIKE 'cli:%' AND {text} NOT LIKE '% (%)' THEN 'terminal' ELSE 'user' END AS kind,
    CASE WHEN {text} LIKE '% (%)' THEN left({text}, strpos({text}, ' (') - 1)
        WHEN {text} LIKE 'cli:%' THEN substr({text}, 5)
        ELSE {text} END AS name,
    CASE WHEN {text} LIKE '% (%)'
        THEN substr({text}, strpos({text}, ' (') + 2, length({text}) - strpos({text}, ' (') - 2) END AS id"""

#: How the text of an attempt ends. A number of more digits, or with a zero before it, was never written, and would not
#: come out as the same text.
_ATTEMPT = r"^[^][#]+(\[(0|[1-9][0-9]{0,8})\])?#(0|[1-9][0-9]{0,8})$"

#: Each row by itself: a join with the texts would be planned without statistics. ``OFFSET 0`` keeps the planner from
#: working each part out again wherever it is used.
EVENTS = f"""
UPDATE aihandoff.events SET
    (actor_kind, actor_name, actor_user_id, actor_dag_id, actor_run_id, actor_task_id, actor_map_index,
        actor_try_number) = (
    SELECT kind,
        CASE WHEN kind IN ('user', 'terminal') THEN name
            WHEN kind = 'policy' THEN substr(actor, 8)
            WHEN kind = 'webhook' THEN substr(actor, 9)
            WHEN kind = 'other' THEN actor END,
        CASE WHEN kind = 'user' THEN id END,
        CASE WHEN kind = 'task' THEN dag_id END,
        CASE WHEN kind = 'task'
            THEN substr(body, length(dag_id) + 2, length(body) - length(dag_id) - length(attempt) - 2) END,
        CASE WHEN kind = 'task' THEN split_part(split_part(attempt, '#', 1), '[', 1) END,
        CASE WHEN kind = 'task' THEN coalesce(
            nullif(rtrim(split_part(split_part(attempt, '#', 1), '[', 2), ']'), '')::integer, -1) END,
        CASE WHEN kind = 'task' THEN split_part(attempt, '#', 2)::integer END
    FROM (
        SELECT body, dag_id, attempt, person.name, person.id,
            CASE WHEN actor LIKE 'task:%' AND dag_id <> '' AND length(body) > length(dag_id) + length(attempt) + 2
                    AND attempt ~ '{_ATTEMPT}' THEN 'task'
                WHEN actor LIKE 'user:%' THEN person.kind
                WHEN actor LIKE 'policy:%' THEN 'policy'
                WHEN actor LIKE 'webhook:%' THEN 'webhook'
                WHEN actor IN ('timeout', 'reconciler') THEN actor
                ELSE 'other' END AS kind
        FROM (
            SELECT body, split_part(body, '/', 1) AS dag_id, split_part(body, '/', -1) AS attempt
            FROM (SELECT substr(actor, 6) AS body) AS text
        ) AS parts, LATERAL (SELECT {_PERSON.format(text="body")}) AS person
        OFFSET 0
    ) AS facts)
"""

#: The text was the identity of a voter; a login is now. One whose login has ``" ("`` in it could approve a second time,
#: so where such an approval counts for a job in review, all its approvals are asked for again.
ASKED_AGAIN = """
UPDATE aihandoff.jobs SET decided_before = (SELECT max(decision_id) FROM aihandoff.decisions WHERE job_id = jobs.job_id)
WHERE state = 'review' AND EXISTS (
    SELECT FROM aihandoff.decisions AS d
    WHERE d.job_id = jobs.job_id AND d.digest = jobs.review_digest AND d.decision_id > coalesce(decided_before, 0)
        AND d.verdict = 'approve' AND d.decided_by_kind = 'user' AND d.decided_by LIKE '% (%')
"""

#: The ledger has its own words for the states of a response.
RESPONSES = "UPDATE aihandoff.revisions SET response_status = 'running' WHERE response_status = 'in_progress'"

DECISIONS = f"""
UPDATE aihandoff.decisions SET (decided_by, decided_by_id, decided_by_kind) = (
    SELECT name, id, kind FROM (SELECT {_PERSON.format(text="decided_by")}) AS person)
WHERE decided_by_kind = 'user' AND (decided_by LIKE '% (%)' OR decided_by LIKE 'cli:%')
"""

REVISIONS = f"""
UPDATE aihandoff.revisions SET (author, author_id, author_kind) = (
    SELECT name, id, kind FROM (SELECT {_PERSON.format(text="author")}) AS person)
WHERE author <> 'model'
"""

RULES = """
ALTER TABLE aihandoff.events ALTER COLUMN actor_kind SET NOT NULL;
CREATE INDEX events_by_run ON aihandoff.events (actor_dag_id, actor_run_id) WHERE actor_kind = 'task';
"""


def upgrade() -> None:
    """Fill the new columns of every line in one statement; no one else can write a line meanwhile."""
    op.execute(COLUMNS)
    op.execute(NAMES)
    op.execute("ALTER TABLE aihandoff.events DISABLE TRIGGER events_append_only")
    op.execute(EVENTS)
    op.execute("ALTER TABLE aihandoff.events ENABLE TRIGGER events_append_only")
    op.execute(ASKED_AGAIN)
    op.execute(RESPONSES)
    op.execute(DECISIONS)
    op.execute(REVISIONS)
    op.execute(RULES)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
