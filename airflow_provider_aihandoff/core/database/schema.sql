-- The ledger as a fresh installation gets it. An existing one reaches the same form through the migrations
-- (a test compares the two), so a change here needs a migration in `migrations/versions/`.
--
-- Content (inputs, requests, outputs, plans) is `json`, not `jsonb`: `json` keeps the exact bytes that the digest
-- next to it was made from, and takes any text a model can write.
--
-- The schema `aihandoff` itself is there already: the upgrade creates it, unless a database administrator has.

-- One row: the identity of this ledger. It is part of every effect key and of the metadata sent to OpenAI, so that
-- two ledgers that talk to the same systems are never taken for each other.
CREATE TABLE aihandoff.ledger (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    ledger_id uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- 244 random bits, for the keyed hashes of secrets where no other key is configured
    digest_key text NOT NULL DEFAULT replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')
);
INSERT INTO aihandoff.ledger DEFAULT VALUES;

-- Many jobs of one task. What became of them is counted from the jobs: no total is kept here.
CREATE TABLE aihandoff.sets (
    set_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    set_type text NOT NULL CHECK (set_type <> ''),
    set_key text NOT NULL CHECK (set_key <> ''),
    requested_by text NOT NULL,
    dag_id text NOT NULL,            -- the task that owns the set now
    run_id text NOT NULL,
    task_id text NOT NULL,
    map_index integer NOT NULL,
    deadline timestamptz NOT NULL,   -- of each revision that is made for it
    items integer CHECK (items >= 0), -- how many it has; null: they have not all been made jobs yet
    left_out json NOT NULL,          -- the items that have no job in it: how many for each reason, and the first ones
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    notified_at timestamptz,         -- when people were last notified that jobs of it wait for a decision
    transport text NOT NULL DEFAULT 'background' CHECK (transport IN ('background', '2h', '8h', 'batch')), -- its newest
    transport_why text,              -- why it was chosen, as a sentence; null: its author has named it
    complete_by timestamptz,         -- when its author wants its outputs; null: as they come
    UNIQUE (set_type, set_key)
);
CREATE INDEX sets_by_dag ON aihandoff.sets (dag_id, set_id);

-- A file of requests that the provider answers together. Each row stands for at most one batch at the provider: it is
-- the intent to make it, and committed before the file is uploaded.
CREATE TABLE aihandoff.batches (
    batch_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    set_id bigint NOT NULL REFERENCES aihandoff.sets,
    conn_id text NOT NULL,
    state text NOT NULL CHECK (state IN ('filling', 'creating', 'running', 'ended', 'read', 'abandoned')),
    token uuid,                      -- the attempt that fills and sends it, and until when
    lease_until timestamptz,
    lines integer NOT NULL DEFAULT 0,                    -- requests that it was made of
    file_id text,                    -- the provider's ids
    provider_id text UNIQUE,
    provider_status text,            -- what the provider, or its webhook, said last
    result_files text[] NOT NULL DEFAULT '{}',
    completed integer,               -- how many requests the provider counts as completed, and as failed
    failed integer,
    why text,                        -- why it was abandoned, stopped or given up, as a sentence
    deadline timestamptz NOT NULL,   -- of its requests
    created_at timestamptz NOT NULL,
    sent_at timestamptz,             -- when the provider took it
    cancelled_at timestamptz,        -- when the provider was asked to stop it
    ended_at timestamptz,            -- when its end was recorded
    updated_at timestamptz NOT NULL,
    CHECK (state NOT IN ('running', 'ended', 'read') OR provider_id IS NOT NULL)
);
CREATE INDEX batches_of_set ON aihandoff.batches (set_id);
CREATE INDEX batches_open ON aihandoff.batches (updated_at) WHERE state NOT IN ('read', 'abandoned');

-- Requests for jobs: from a program, over REST or with a row of its own transaction. A Dag run is made for each.
CREATE TABLE aihandoff.job_requests (
    request_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    job_type text NOT NULL CHECK (job_type <> ''),
    job_key text NOT NULL CHECK (job_key <> ''),
    input json NOT NULL,
    permissions json NOT NULL DEFAULT '{}',
    requested_by text NOT NULL CHECK (requested_by <> ''),          -- who asked
    requested_by_id text,            -- the auth manager's id of a login, where it is not the login name
    recorded_by text NOT NULL DEFAULT session_user, -- the login that sent it, or the role of the database session
    recorded_by_kind text NOT NULL DEFAULT 'database' CHECK (recorded_by_kind IN ('user', 'database')),
    idempotency_key text,
    state text NOT NULL DEFAULT 'recorded' CHECK (
        state IN ('recorded', 'started', 'job', 'refused', 'failed', 'cancelled')),
    state_reason text,
    dag_id text,                     -- the run that was made for it, and its id
    run_id text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    try_at timestamptz NOT NULL DEFAULT clock_timestamp(), -- when making a run may be tried next
    tries integer NOT NULL DEFAULT 0,        -- how often it was begun
    events_show_result boolean NOT NULL DEFAULT false, -- its author puts the output into the event that it is done
    UNIQUE (job_type, job_key),
    UNIQUE (recorded_by, idempotency_key)
);
CREATE INDEX job_requests_due ON aihandoff.job_requests (try_at) WHERE state = 'recorded';
CREATE INDEX job_requests_started ON aihandoff.job_requests (try_at) WHERE state = 'started';
CREATE INDEX job_requests_by_sender ON aihandoff.job_requests (recorded_by, job_type, created_at);
CREATE INDEX job_requests_by_requester ON aihandoff.job_requests (requested_by, created_at);

-- The contract.
CREATE TABLE aihandoff.jobs (
    job_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_type text NOT NULL CHECK (job_type <> ''),
    job_key text NOT NULL CHECK (job_key <> ''),
    state text NOT NULL CHECK (state IN (
        'queued', 'running', 'review', 'approved', 'applying', 'completed',
        'rejected', 'failed', 'cancelled', 'rolling_back', 'rolled_back')),
    state_reason text,
    input json NOT NULL,
    input_digest text NOT NULL,
    requested_by text NOT NULL,
    permissions json NOT NULL,
    approval text NOT NULL CHECK (approval IN ('required', 'not required')),
    approval_reason text,
    max_revisions integer NOT NULL CHECK (max_revisions >= 1),
    revision integer NOT NULL,       -- number of the current revision
    review_digest text,              -- what a decision must name; null while no plan was rendered
    review_deadline timestamptz,
    decision_id bigint,              -- the decision in force
    dag_id text NOT NULL,            -- the task that owns the job now
    run_id text NOT NULL,
    task_id text NOT NULL,
    map_index integer NOT NULL,
    ti_id text NOT NULL,
    try_number integer NOT NULL,
    event_seq integer NOT NULL,      -- the newest event, and its hash
    event_hash text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    review_on_timeout text CHECK (review_on_timeout IN ('reject', 'fail')), -- how its author wants a review to expire
    cancelling text,                 -- why it is being cancelled, while its response or an effect is under way
    triggered_by text,               -- the user who triggered the Dag run, also where the author names another requester
    max_cost_usd numeric,            -- no further revision by the model is asked for above it
    review json,                     -- who may decide, how many must, and when they are reminded
    review_asked_at timestamptz,     -- when people were asked; an edit does not move it
    reminded_at timestamptz,
    escalated_at timestamptz,
    decided_before bigint,           -- the newest decision from before the plan was rendered: those up to it are void
    -- Totals that a trigger keeps, for lists alone: no field of a job in the code.
    known_cost_usd numeric NOT NULL DEFAULT 0,           -- of its revisions, as far as their price is known
    retries integer NOT NULL DEFAULT 0,                  -- requests that were sent again, over all its revisions
    reassigned json,                 -- who decides instead of those whom its author named, and who has said so
    acknowledged_at timestamptz,     -- when a person saw that it failed; null: no one has, or it has not failed
    tags text[] NOT NULL DEFAULT '{}',                   -- what its author calls it, for budgets and reports
    set_id bigint REFERENCES aihandoff.sets,             -- the set that came for it last; null: it is in none
    UNIQUE (job_type, job_key),
    CHECK (approval = 'required' OR approval_reason <> '')
);
CREATE INDEX jobs_in_flight ON aihandoff.jobs (updated_at) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_in_review ON aihandoff.jobs (created_at) WHERE state = 'review';
CREATE INDEX jobs_committing ON aihandoff.jobs (updated_at) WHERE state IN ('approved', 'applying', 'rolling_back');
CREATE INDEX jobs_by_run ON aihandoff.jobs (dag_id, run_id);
CREATE INDEX jobs_by_type ON aihandoff.jobs (job_type, job_id);
-- What the list of jobs filters and sorts by, the newest first. A filter that has no index here is refused alone.
CREATE INDEX jobs_by_age ON aihandoff.jobs (created_at, job_id);
CREATE INDEX jobs_by_state ON aihandoff.jobs (state, created_at, job_id);
CREATE INDEX jobs_by_type_and_age ON aihandoff.jobs (job_type, created_at, job_id);
CREATE INDEX jobs_by_key ON aihandoff.jobs (job_key text_pattern_ops);
CREATE INDEX jobs_by_dag ON aihandoff.jobs (dag_id, created_at, job_id);
CREATE INDEX jobs_by_task ON aihandoff.jobs (dag_id, task_id, created_at, job_id);
CREATE INDEX jobs_by_requester ON aihandoff.jobs (requested_by, created_at, job_id);
CREATE INDEX jobs_by_cost ON aihandoff.jobs (known_cost_usd, job_id) WHERE known_cost_usd > 0;
CREATE INDEX jobs_by_retries ON aihandoff.jobs (retries, job_id) WHERE retries > 0;
CREATE INDEX jobs_by_error ON aihandoff.jobs USING gin (to_tsvector('simple', left(state_reason, 10000)))
    WHERE state = 'failed';
CREATE INDEX jobs_of_set ON aihandoff.jobs (set_id, state, job_id) WHERE set_id IS NOT NULL;
-- What the overview counts and adds up.
CREATE INDEX jobs_by_dag_and_state ON aihandoff.jobs (dag_id, state);
CREATE INDEX jobs_ended ON aihandoff.jobs (updated_at) INCLUDE (dag_id, job_type, state, known_cost_usd)
    WHERE state IN ('completed', 'rejected', 'failed', 'cancelled', 'rolled_back');
CREATE INDEX jobs_review_deadline ON aihandoff.jobs (review_deadline) WHERE state = 'review';
CREATE INDEX jobs_failed ON aihandoff.jobs (updated_at) WHERE state = 'failed' AND acknowledged_at IS NULL;

-- The versions of a job's output: one background response each, or an edit by a person.
CREATE TABLE aihandoff.revisions (
    revision_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    number integer NOT NULL CHECK (number >= 1),
    author text NOT NULL,            -- the login name or account of the person who edited; else 'model'
    state text NOT NULL CHECK (state IN ('queued', 'submitting', 'running', 'completed', 'failed', 'cancelled')),
    conn_id text NOT NULL,
    request json NOT NULL,
    request_digest text NOT NULL,
    deadline timestamptz NOT NULL,
    submissions integer NOT NULL DEFAULT 0,              -- requests that may have reached OpenAI
    unknown_submissions integer NOT NULL DEFAULT 0,      -- of these, how many may have left an orphan behind
    submit_token uuid,                                   -- the attempt that may be sending, and until when
    submit_lease_until timestamptz,
    response_id text,
    response_status text,
    output json,
    output_digest text,
    error json,
    usage json,
    cost_usd numeric,                -- null: the price is unknown
    created_at timestamptz NOT NULL,
    submitted_at timestamptz,
    completed_at timestamptz,
    based_on integer,                -- the revision that it edits, or changes at a reviewer's wish
    changes text,                    -- the reviewer's words that the model was asked to follow
    author_kind text NOT NULL CHECK (author_kind IN ('model', 'user', 'terminal')),
    author_id text,                  -- the auth manager's id of a user, where it is not the login name
    on_lost text CHECK (on_lost IN ('wait', 'ask', 'resend')), -- what its author wants after a lost request; null: auto
    conversation_id text,            -- made for this revision alone: it tells what became of a lost request
    held_kind text CHECK (held_kind IN ('pause', 'spending limit', 'budget', 'rate')), -- why it may not be sent now
    held_name text,                  -- which pause or limit
    held_why text,                   -- as a sentence
    held_since timestamptz,
    worst_cost_usd numeric,          -- what one request for it can cost at most; null: that is not known
    priority text NOT NULL DEFAULT 'batch' CHECK (priority IN ('interactive', 'batch')),
    rate_key text,                   -- its limits are also those of this key
    max_wait interval,               -- for how long it waits for a limit of speed; null: until its deadline
    refusals integer NOT NULL DEFAULT 0,                 -- requests that were refused for now, or never sent
    expected_output_tokens integer CHECK (expected_output_tokens > 0), -- by its author, where nothing else bounds them
    unpriced_usd numeric CHECK (unpriced_usd > 0),       -- one request costs at most so much, by its author's word
    model text,                      -- that its request names
    batch_id bigint REFERENCES aihandoff.batches,        -- the batch that its request is, or was answered, in
    UNIQUE (job_id, number),
    CHECK ((output IS NULL) = (output_digest IS NULL)),
    CHECK (state <> 'running' OR response_id IS NOT NULL OR batch_id IS NOT NULL),
    CHECK (state <> 'completed' OR output IS NOT NULL)
);
CREATE INDEX revisions_of_batch ON aihandoff.revisions (batch_id, job_id) WHERE batch_id IS NOT NULL;
CREATE INDEX revisions_held ON aihandoff.revisions (held_kind, held_name, held_since)
    WHERE held_kind IS NOT NULL AND state IN ('queued', 'submitting');
CREATE UNIQUE INDEX revisions_response ON aihandoff.revisions (response_id) WHERE response_id IS NOT NULL;
CREATE INDEX revisions_in_flight ON aihandoff.revisions (deadline) WHERE state IN ('submitting', 'running');
CREATE INDEX revisions_of_connection ON aihandoff.revisions (conn_id) WHERE state IN ('submitting', 'running');
CREATE INDEX revisions_of_key ON aihandoff.revisions (rate_key)
    WHERE rate_key IS NOT NULL AND state IN ('submitting', 'running');
CREATE INDEX revisions_left_running ON aihandoff.revisions (deadline)
    WHERE state = 'cancelled' AND response_id IS NOT NULL AND completed_at IS NULL;
CREATE INDEX revisions_ended ON aihandoff.revisions (conn_id, completed_at)
    WHERE response_id IS NOT NULL AND completed_at IS NOT NULL;
-- Keeps the totals in the row of the job, so that lists can be filtered and sorted by them.
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

-- Responses that were created for a revision which has another one: they are cancelled, and what they cost is recorded.
CREATE TABLE aihandoff.surplus_responses (
    response_id text PRIMARY KEY,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    revision integer NOT NULL,
    conn_id text NOT NULL,
    created_at timestamptz NOT NULL,
    settled_at timestamptz,
    cost_usd numeric                 -- null: it is not settled, or the price is unknown
);
CREATE INDEX surplus_responses_open ON aihandoff.surplus_responses (created_at) WHERE settled_at IS NULL;

-- What was decided, on which digest, by whom.
CREATE TABLE aihandoff.decisions (
    decision_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    revision integer NOT NULL,
    verdict text NOT NULL CHECK (verdict IN ('approve', 'reject', 'request changes')),
    digest text NOT NULL,
    decided_by text NOT NULL,        -- a login name, an account, a policy's name@version, or 'timeout'
    decided_by_kind text NOT NULL CHECK (decided_by_kind IN ('user', 'terminal', 'policy', 'timeout')),
    comment text,
    created_at timestamptz NOT NULL,
    decided_by_id text,              -- the auth manager's id of a user, where it is not the login name
    voided_at timestamptz            -- since when it does not count: its review was reassigned to others
);
CREATE INDEX decisions_by_job ON aihandoff.decisions (job_id);
CREATE INDEX decisions_by_decider ON aihandoff.decisions (decided_by, job_id);
ALTER TABLE aihandoff.jobs ADD FOREIGN KEY (decision_id) REFERENCES aihandoff.decisions;

-- A link in a message, which lets one person give one verdict on one digest, once.
CREATE TABLE aihandoff.decision_links (
    token_hash text PRIMARY KEY CHECK (token_hash ~ '^[0-9a-f]{64}$'), -- SHA-256; the token is in the message alone
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    revision integer NOT NULL,
    digest text NOT NULL,
    verdict text NOT NULL CHECK (verdict IN ('approve', 'reject')),
    person text NOT NULL CHECK (person <> ''), -- a login name, or the auth manager's id of a user
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    used_at timestamptz
);

-- An approval task that Airflow has parked, and what wakes it. Its row goes when the task goes on, or has ended.
CREATE TABLE aihandoff.parked_tasks (
    ti_id uuid PRIMARY KEY,          -- Airflow's id of the task instance
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    digest text NOT NULL,            -- the review digest that was asked about
    reassigned integer NOT NULL,     -- how often the review had been reassigned by then
    dag_id text NOT NULL,
    run_id text NOT NULL,
    task_id text NOT NULL,
    map_index integer NOT NULL,
    try_number integer NOT NULL,
    subject text NOT NULL,           -- what Airflow's Required Actions shows
    body text NOT NULL,
    not_before timestamptz NOT NULL, -- it is not woken before
    until timestamptz NOT NULL,      -- when there is something to do at the latest
    parked_at timestamptz NOT NULL
);
CREATE INDEX parked_tasks_of_job ON aihandoff.parked_tasks (job_id);

-- One intended write to one outside system.
CREATE TABLE aihandoff.effects (
    effect_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    revision integer NOT NULL,
    name text NOT NULL,
    position integer NOT NULL,       -- order in the plan
    kind text NOT NULL,              -- what sends it: 'http', 'postgres', or the class of the operator
    effect_key text NOT NULL UNIQUE,
    state text NOT NULL CHECK (
        state IN ('planned', 'claimed', 'applied', 'refused', 'unknown', 'skipped', 'void')),
    plan json NOT NULL,
    plan_digest text NOT NULL,
    undo json,
    attempt integer NOT NULL DEFAULT 0,
    claim_token uuid,                -- fencing: only its owner may record the outcome of the attempt
    claimed_by text,
    claimed_at timestamptz,
    external_id text,
    result json,
    error text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    claim_until timestamptz,         -- until then no one takes over a claim, even if its owner has died
    unknown_since timestamptz,
    after_effects json NOT NULL DEFAULT '[]',            -- names of the effects that must be applied before this one
    undoes bigint UNIQUE REFERENCES aihandoff.effects,   -- the effect that this one undoes
    current json,                    -- what the target had when the plan was rendered, where that can be read
    resends integer NOT NULL DEFAULT 0,                  -- how often it was sent again after an unknown outcome
    not_now boolean NOT NULL DEFAULT false,              -- the target answered the newest attempt with "not now"
    find_counts boolean NOT NULL DEFAULT true,           -- false: its probe saw the same before anything was sent
    own boolean NOT NULL DEFAULT true,                   -- applied by this effect, as far as the ledger knows
    probe_note text,                 -- what its probe saw that a person should know
    task_id text,                    -- the task that applies it
    filled json,                     -- what earlier effects have brought, by the placeholders in its plan
    held_kind text CHECK (held_kind IN ('pause', 'rate')), -- why it may not be sent now, as for a revision
    held_name text,
    held_why text,
    held_since timestamptz,
    held_until timestamptz,          -- when it may be asked for again; null: when what holds it has ended
    external_url text,               -- where its record can be seen, with {external_id} in it
    rate_key text,                   -- as of a revision; null before it is claimed
    conn_id text,                    -- of its target, for limits; null before it is claimed, and where it has none
    UNIQUE (job_id, revision, name),
    CHECK (state <> 'claimed' OR (claim_token IS NOT NULL AND claim_until IS NOT NULL))
);
CREATE INDEX effects_planned ON aihandoff.effects (updated_at, effect_id) WHERE state = 'planned' AND task_id IS NOT NULL;
CREATE INDEX effects_claimed ON aihandoff.effects (claimed_at) WHERE state = 'claimed';
CREATE INDEX effects_claimed_of_key ON aihandoff.effects (rate_key) WHERE rate_key IS NOT NULL AND state = 'claimed';
CREATE INDEX effects_claimed_of_connection ON aihandoff.effects (conn_id)
    WHERE conn_id IS NOT NULL AND state = 'claimed';
CREATE INDEX effects_unknown ON aihandoff.effects (updated_at) WHERE state = 'unknown';
CREATE INDEX effects_held ON aihandoff.effects (held_kind, held_name, held_since)
    WHERE held_kind IS NOT NULL AND state IN ('planned', 'refused', 'unknown');
CREATE INDEX effects_by_external_id ON aihandoff.effects USING hash (external_id) WHERE external_id IS NOT NULL;
CREATE INDEX effects_by_error ON aihandoff.effects USING gin (to_tsvector('simple', left(error, 10000)))
    WHERE error IS NOT NULL;

-- Limits of speed, which all processes share. A row without an amount has what was learned of the other side alone.
CREATE TABLE aihandoff.rate_limits (
    limit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('openai', 'target', 'key')),
    name text NOT NULL CHECK (name <> ''),               -- the connection, or the key that authors use
    measure text NOT NULL CHECK (measure IN ('requests', 'tokens', 'in flight')),
    amount bigint CHECK (amount >= 0),                   -- in a period, or at once; 0 stops; null: none was set
    period integer CHECK (period > 0),                   -- in seconds; null: it counts what is in flight
    weights json NOT NULL DEFAULT '{}',                  -- of job types and requesters, where they are not 1
    stated bigint,                   -- how many requests a minute the other side says that it takes
    base bigint,                     -- how much went through when it last asked for less, and when that was
    slowed_at timestamptz,
    closed_until timestamptz,        -- nothing is sent before, since the other side asked for it
    said text,                       -- what it answered
    -- The bucket: what went through lately. Seconds since 1970, and slices of the period, the newest first.
    next_at double precision NOT NULL DEFAULT 0,
    newest_slice bigint NOT NULL DEFAULT 0,
    slices bigint[] NOT NULL DEFAULT '{}',
    -- The order: the virtual times, and how many interactive ones went in a row.
    interactive_virtual double precision NOT NULL DEFAULT 0,
    batch_virtual double precision NOT NULL DEFAULT 0,
    in_a_row smallint NOT NULL DEFAULT 0,
    UNIQUE (kind, name, measure),
    CHECK ((period IS NULL) = (measure = 'in flight'))
) WITH (fillfactor = 50);
CREATE TABLE aihandoff.rate_limit_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    limit_id bigint NOT NULL REFERENCES aihandoff.rate_limits,
    at timestamptz NOT NULL,
    amount bigint,                   -- null: it was ended
    period integer,
    weights json NOT NULL,
    reason text NOT NULL CHECK (reason <> ''),
    actor_kind text NOT NULL,
    actor_name text NOT NULL,
    actor_user_id text
);
CREATE INDEX rate_limit_changes_by_limit ON aihandoff.rate_limit_changes (limit_id, change_id);
-- What waits for a limit, in the order of the tags.
CREATE TABLE aihandoff.rate_waits (
    wait_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    limit_id bigint NOT NULL REFERENCES aihandoff.rate_limits,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    revision_id bigint UNIQUE REFERENCES aihandoff.revisions,
    effect_id bigint UNIQUE REFERENCES aihandoff.effects,
    priority text NOT NULL CHECK (priority IN ('interactive', 'batch')),
    flow text NOT NULL,              -- those of one flow share its weight
    weight double precision NOT NULL,
    tag double precision NOT NULL,
    since timestamptz NOT NULL,
    asks_at timestamptz NOT NULL,    -- when it asks again
    here boolean NOT NULL,           -- it waits in its worker
    CHECK (num_nonnulls(revision_id, effect_id) = 1)
);
CREATE INDEX rate_waits_in_order ON aihandoff.rate_waits (limit_id, priority, tag, wait_id);
CREATE INDEX rate_waits_by_flow ON aihandoff.rate_waits (limit_id, priority, flow, tag);
-- What is sent, or given up, waits no longer.
CREATE FUNCTION aihandoff.end_rate_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'revisions' THEN
        DELETE FROM aihandoff.rate_waits WHERE revision_id = NEW.revision_id;
    ELSE
        DELETE FROM aihandoff.rate_waits WHERE effect_id = NEW.effect_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER revisions_wait_no_longer AFTER UPDATE OF state, held_kind ON aihandoff.revisions FOR EACH ROW
    WHEN (OLD.state <> NEW.state OR (OLD.held_kind = 'rate' AND NEW.held_kind IS DISTINCT FROM 'rate'))
    EXECUTE FUNCTION aihandoff.end_rate_wait();
CREATE TRIGGER effects_wait_no_longer AFTER UPDATE OF state, held_kind ON aihandoff.effects FOR EACH ROW
    WHEN (OLD.state <> NEW.state OR (OLD.held_kind = 'rate' AND NEW.held_kind IS DISTINCT FROM 'rate'))
    EXECUTE FUNCTION aihandoff.end_rate_wait();

-- Every webhook delivery that was accepted.
CREATE TABLE aihandoff.inbox (
    webhook_id text PRIMARY KEY,     -- the header of that name: the key that repeated deliveries share
    conn_id text NOT NULL,
    event_type text NOT NULL,
    response_id text,
    body json NOT NULL,
    disposition text NOT NULL CHECK (disposition IN (
        'applied', 'duplicate', 'late', 'quarantined', 'ignored', 'foreign', 'discarded')),
    job_id bigint REFERENCES aihandoff.jobs,
    deliveries integer NOT NULL DEFAULT 1,
    received_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    polls integer NOT NULL DEFAULT 0, -- how often OpenAI was asked about its response
    poll_at timestamptz,              -- when to ask (again); null: there is nothing to ask
    note text                         -- the result, as text
);
CREATE INDEX inbox_quarantined ON aihandoff.inbox (response_id) WHERE disposition = 'quarantined';
CREATE INDEX inbox_due ON aihandoff.inbox (poll_at) WHERE poll_at IS NOT NULL;
CREATE INDEX inbox_by_age ON aihandoff.inbox (received_at);
CREATE INDEX inbox_by_connection ON aihandoff.inbox (conn_id, received_at);
CREATE INDEX inbox_by_job ON aihandoff.inbox (job_id, received_at) WHERE job_id IS NOT NULL;

-- A bulk action: one step for many jobs, which its user saw before and confirmed by their number.
CREATE TABLE aihandoff.bulk_actions (
    bulk_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action text NOT NULL CHECK (action IN (
        'cancel', 'roll back', 'resolve as applied', 'resolve as not applied', 'reconcile', 'reassign',
        'acknowledge')),
    wanted json NOT NULL,            -- the filter
    reason text NOT NULL,
    actor_kind text NOT NULL,        -- who confirmed it
    actor_name text NOT NULL,
    actor_user_id text,
    created_at timestamptz NOT NULL,
    reviewers json,                  -- of 'reassign': who may decide then
    CHECK ((action = 'reassign') = (reviewers IS NOT NULL))
);
CREATE TABLE aihandoff.bulk_jobs (
    bulk_id bigint NOT NULL REFERENCES aihandoff.bulk_actions,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    seen json NOT NULL,              -- what was shown of it: attempts by the ids of effects, a revision, times reassigned
    outcome text CHECK (outcome IN ('done', 'refused', 'unfinished')), -- null: not taken yet
    note text,                       -- the result, as text
    tried_at timestamptz,
    PRIMARY KEY (bulk_id, job_id)
);
CREATE INDEX bulk_jobs_left ON aihandoff.bulk_jobs (bulk_id, job_id) WHERE outcome IS NULL OR outcome = 'unfinished';

-- What a person has stopped for a while: requests to the model, and external writes too where it says so.
CREATE TABLE aihandoff.pauses (
    pause_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    conn_id text,                    -- what it stops: all that is named here must match, and nothing named is everything
    job_type text,
    dag_id text,
    writes boolean NOT NULL,         -- external writes too; conn_id is then that of the target
    reason text NOT NULL CHECK (reason <> ''),
    actor_kind text NOT NULL,        -- who began it
    actor_name text NOT NULL,
    actor_user_id text,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,            -- null: it is in force
    ended_reason text,
    ended_by_kind text,
    ended_by_name text,
    ended_by_user_id text,
    set_id bigint REFERENCES aihandoff.sets,
    CHECK ((ended_at IS NULL) = (ended_by_kind IS NULL))
);
CREATE INDEX pauses_in_force ON aihandoff.pauses (pause_id) WHERE ended_at IS NULL;

-- The connections whose provider says that a limit of money is reached. One request at a time finds out whether it
-- still is; the row goes when one is accepted.
CREATE TABLE aihandoff.spending_limits (
    conn_id text PRIMARY KEY,
    said text NOT NULL,              -- what the provider answered last
    since timestamptz NOT NULL,
    tries integer NOT NULL,          -- requests that got this answer one after the other
    try_at timestamptz NOT NULL,     -- when the next one may be sent
    try_job_id bigint NOT NULL       -- the job that sends it; a while later, any
);

-- Why a person is needed, as a task of the maintenance Dag has found it and notified people of it.
CREATE TABLE aihandoff.notices (
    dag_id text NOT NULL,            -- the task that notifies: another one has a memory of its own
    task_id text NOT NULL,
    cause text NOT NULL,
    found_by text NOT NULL,          -- the run that found it first; people are notified once another one has
    found_at timestamptz NOT NULL,
    notified_at timestamptz,         -- when people were notified; null: not yet
    send_token uuid,                 -- the run that may be notifying people now, and until when
    send_until timestamptz,
    PRIMARY KEY (dag_id, task_id, cause),
    CHECK ((send_token IS NULL) = (send_until IS NULL))
);

-- How much the requests to the model may cost, for whom, and for how long. No table of what is reserved references a
-- budget or a period: the check would lock one row for each request of the fleet.
CREATE TABLE aihandoff.budgets (
    budget_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    conn_id text,                    -- whose requests it is about: all that is named here must match
    job_type text,
    dag_id text,
    requested_by text,
    tag text,
    amount_usd numeric NOT NULL CHECK (amount_usd > 0),
    period text NOT NULL CHECK (period IN ('hour', 'day', 'week', 'month', 'total')),
    time_zone text NOT NULL,
    thresholds integer[] NOT NULL,   -- percentages that are notified
    on_full text NOT NULL CHECK (on_full IN ('hold', 'fail', 'warn')),
    owner text NOT NULL,
    created_at timestamptz NOT NULL,
    ended_at timestamptz
);
CREATE UNIQUE INDEX budgets_by_name ON aihandoff.budgets (name) WHERE ended_at IS NULL;
-- One period of a budget.
CREATE TABLE aihandoff.budget_windows (
    window_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    budget_id bigint NOT NULL REFERENCES aihandoff.budgets,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz,
    amount_usd numeric NOT NULL CHECK (amount_usd > 0),
    raised_usd numeric NOT NULL DEFAULT 0 CHECK (raised_usd >= 0), -- for this period alone
    notified integer[] NOT NULL DEFAULT '{}',            -- thresholds
    closed_at timestamptz            -- when the budget got other periods
);
CREATE UNIQUE INDEX budget_windows_open ON aihandoff.budget_windows (budget_id, starts_at) WHERE closed_at IS NULL;
-- The amount of a period is split over several rows, so that requests do not queue up for one. What is settled and
-- reserved never exceeds what a row was given, whatever dies; what had to be given beyond the amount says so.
CREATE TABLE aihandoff.budget_stripes (
    window_id bigint NOT NULL,
    stripe smallint NOT NULL,
    allotted_usd numeric NOT NULL,
    reserved_usd numeric NOT NULL DEFAULT 0 CHECK (reserved_usd >= 0),
    settled_usd numeric NOT NULL DEFAULT 0 CHECK (settled_usd >= 0),
    beyond_usd numeric NOT NULL DEFAULT 0 CHECK (beyond_usd >= 0),
    PRIMARY KEY (window_id, stripe),
    CONSTRAINT budget_stripes_never_over CHECK (reserved_usd + settled_usd <= allotted_usd),
    CHECK (beyond_usd <= allotted_usd)
) WITH (fillfactor = 50);
-- What one request may cost, in each budget that it counts for.
CREATE TABLE aihandoff.budget_reservations (
    reservation uuid NOT NULL,
    budget_id bigint NOT NULL,
    window_id bigint NOT NULL,
    stripe smallint NOT NULL,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    revision integer NOT NULL,
    response_id text,                -- null: not known
    amount_usd numeric NOT NULL CHECK (amount_usd >= 0),
    cost_usd numeric CHECK (cost_usd >= 0),
    assumed boolean NOT NULL,        -- the price is not known: the amount counts
    state text NOT NULL CHECK (state IN ('reserved', 'settled', 'released', 'expired')),
    reserved_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL, -- until then its response may run, and be found
    ended_at timestamptz,
    PRIMARY KEY (reservation, budget_id),
    CHECK ((state = 'settled') = (cost_usd IS NOT NULL))
);
CREATE INDEX budget_reservations_by_job ON aihandoff.budget_reservations (job_id, revision);
CREATE INDEX budget_reservations_by_window ON aihandoff.budget_reservations (window_id, reserved_at);
CREATE INDEX budget_reservations_assumed ON aihandoff.budget_reservations (window_id) WHERE assumed;
CREATE INDEX budget_reservations_open ON aihandoff.budget_reservations (expires_at) WHERE state = 'reserved';
-- The history of a budget: append-only.
CREATE TABLE aihandoff.budget_events (
    budget_id bigint NOT NULL REFERENCES aihandoff.budgets,
    seq integer NOT NULL CHECK (seq >= 1),
    at timestamptz NOT NULL,
    event text NOT NULL CHECK (event IN ('added', 'changed', 'raised', 'ended')),
    why text NOT NULL CHECK (why <> ''),
    detail json NOT NULL,
    actor_kind text NOT NULL,
    actor_name text NOT NULL,
    actor_user_id text,
    PRIMARY KEY (budget_id, seq)
);
CREATE FUNCTION aihandoff.refuse_budget_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'aihandoff.budget_events is append-only';
END $$;
CREATE TRIGGER budget_events_append_only BEFORE UPDATE OR DELETE ON aihandoff.budget_events
    FOR EACH ROW EXECUTE FUNCTION aihandoff.refuse_budget_change();
CREATE TRIGGER budget_events_no_truncate BEFORE TRUNCATE ON aihandoff.budget_events
    FOR EACH STATEMENT EXECUTE FUNCTION aihandoff.refuse_budget_change();
-- What the provider says that it has billed, and what the ledger says that responses have cost, each day of UTC.
CREATE TABLE aihandoff.bill_days (
    project_id text NOT NULL CHECK (project_id <> ''),
    day date NOT NULL,
    billed_usd numeric NOT NULL,
    ledger_usd numeric NOT NULL,     -- of the responses whose price is known
    unpriced integer NOT NULL,       -- of the other ones, how many
    compared_at timestamptz NOT NULL,
    notified_at timestamptz,         -- when people were notified of the difference
    PRIMARY KEY (project_id, day)
);

-- When a response of each connection was last polled, as far as the triggerers have said.
CREATE TABLE aihandoff.polls (
    conn_id text PRIMARY KEY,
    polled_at timestamptz NOT NULL
);

-- When the response of each job was last seen to run, as far as the triggerers have said. It refers to no other table:
-- what is noted waits for no one who has locked the job.
CREATE TABLE aihandoff.signs (
    job_id bigint PRIMARY KEY,
    revision integer NOT NULL,
    seen_at timestamptz NOT NULL
);
-- Where changes of jobs are sent. The secret is in an Airflow connection, and not here. No table references a
-- subscription: the check would lock one row for each change of the fleet.
CREATE TABLE aihandoff.event_subscriptions (
    subscription_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    url text NOT NULL CHECK (url <> ''),
    job_types text[] NOT NULL DEFAULT '{}',  -- empty: of every type
    states text[] NOT NULL DEFAULT '{}',     -- as those who asked know them; empty: each
    secret_conn_id text NOT NULL CHECK (secret_conn_id <> ''),
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'disabled', 'ended')),
    state_reason text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_token uuid,                -- the deliverer that may be sending now, and until when
    lease_until timestamptz,         -- without a token: when one ended last
    rest_until timestamptz,          -- nothing is sent before: everything has failed
    failures integer NOT NULL DEFAULT 0      -- how often in a row
);
CREATE UNIQUE INDEX event_subscriptions_by_name ON aihandoff.event_subscriptions (name) WHERE state <> 'ended';
CREATE TABLE aihandoff.event_subscription_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription_id bigint NOT NULL,
    at timestamptz NOT NULL,
    change text NOT NULL CHECK (change IN ('subscribed', 'changed', 'disabled', 'ended', 'replayed')),
    url text NOT NULL,               -- as the subscription was after it, like the three below
    job_types text[] NOT NULL,
    states text[] NOT NULL,
    secret_conn_id text NOT NULL,
    reason text NOT NULL,
    actor_kind text NOT NULL,
    actor_name text,
    actor_user_id text
);
CREATE INDEX event_subscription_changes_by_subscription
    ON aihandoff.event_subscription_changes (subscription_id, change_id);

-- The outbox: one row for each change that a subscription is about, written by the statement that makes the change.
CREATE TABLE aihandoff.event_deliveries (
    delivery_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription_id bigint NOT NULL,
    job_id bigint REFERENCES aihandoff.jobs,
    request_id uuid REFERENCES aihandoff.job_requests, -- of one that ended before there was a job
    seq integer NOT NULL,            -- of the job's history; 0 of a request
    revision integer,                -- that the job had then
    standing text NOT NULL CHECK (standing IN ('queued', 'working', 'in review', 'done', 'stopped', 'failed')),
    at timestamptz NOT NULL,         -- when it changed
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'dead')),
    try_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries integer NOT NULL DEFAULT 0,        -- how often sending it was begun
    first_try_at timestamptz,
    error text,                      -- why the newest try has failed
    settled_at timestamptz,          -- when it was delivered, or given up
    CHECK ((job_id IS NULL) <> (request_id IS NULL)),
    CHECK ((state = 'waiting') = (settled_at IS NULL))
);
CREATE INDEX event_deliveries_due ON aihandoff.event_deliveries (subscription_id, try_at, delivery_id)
    WHERE state = 'waiting';
CREATE INDEX event_deliveries_in_order ON aihandoff.event_deliveries (subscription_id, job_id, seq)
    WHERE state = 'waiting';
CREATE INDEX event_deliveries_settled ON aihandoff.event_deliveries (state, settled_at) WHERE state <> 'waiting';

-- The history of a job: append-only, each line hashed together with the one before it.
CREATE TABLE aihandoff.events (
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    seq integer NOT NULL CHECK (seq >= 1),
    at timestamptz NOT NULL,
    actor text NOT NULL,             -- who, as text; the facts are the columns below
    event text NOT NULL,
    from_state text,
    to_state text NOT NULL,
    reason text,
    detail json NOT NULL,
    previous_hash text NOT NULL,
    hash text NOT NULL,
    actor_kind text NOT NULL CHECK (actor_kind IN (
        'task', 'user', 'terminal', 'policy', 'timeout', 'webhook', 'reconciler', 'other')),
    actor_name text,                 -- a login name, an account, a policy, a connection, or another program
    actor_user_id text,              -- the auth manager's id of a user, where it is not the login name
    actor_dag_id text,               -- the attempt of a task
    actor_run_id text,
    actor_task_id text,
    actor_map_index integer,
    actor_try_number integer,
    hash_version smallint NOT NULL DEFAULT 1, -- 2: the hash covers every column. 1: those up to `hash`
    PRIMARY KEY (job_id, seq)
);
-- The jobs that a Dag run has made or attached to.
CREATE INDEX events_by_run ON aihandoff.events (actor_dag_id, actor_run_id) WHERE actor_kind = 'task';
CREATE FUNCTION aihandoff.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'aihandoff.events is append-only';
END $$;
CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE ON aihandoff.events
    FOR EACH ROW EXECUTE FUNCTION aihandoff.refuse_change();
CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON aihandoff.events
    FOR EACH STATEMENT EXECUTE FUNCTION aihandoff.refuse_change();
