"""Takes each guard out, one at a time, and shows that a named test turns red.

`.venv/bin/python -m benchmarks.mutation` works on a copy of the repository and prints the table. Words after it choose
the guards with one of them in their name. It exits with 1 where a test stays green, or is red before anything is taken
out. That each guard is still where this says is a test of its own, in `tests/unit/benchmarks/test_mutation.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.definitions import Definitions
from demo.postgres import URL_VARIABLE, open_postgres

ROOT = Path(__file__).parents[1]
PACKAGE = "airflow_provider_aihandoff"
COPIED = (PACKAGE, "tests", "demo", "docs", "dags", "benchmarks", "chaos", "nodes", "pyproject.toml")

_LEDGER = "tests/integration/core"
_APPLYING = "tests/integration/core/effects"
_ALTERED, _MARKS = f"{_APPLYING}/test_altered_undos.py", "tests/unit/targets/test_rollback_functions.py"
_EFFECTS, _GUARDS = f"{_LEDGER}/effects/test_effect_store.py", f"{_LEDGER}/effects/test_guards.py"

_DEPENDENT = "tests/integration/operators/test_dependent_effects.py"
_RESTORING = "tests/integration/operators/test_restoring_undos.py"
_TARGETS = "tests/integration/targets"
_SIGNALS = f"{_LEDGER}/test_signals_of_steps.py"
_BULK_REVIEW = "tests/integration/web/test_bulk_review.py"
_BULK = f"{_LEDGER}/bulk/test_bulk_actions.py"
_BUDGETS = f"{_LEDGER}/budgets"
_REASSIGN = f"{_LEDGER}/review/test_reassign.py"
_LINKS = f"{_LEDGER}/review/test_decision_links.py"
_PARKED = "tests/integration/front_door/test_parked_tasks.py"
_NOTICES = f"{_LEDGER}/reconcile/test_notices.py"
_BATCHES = f"{_LEDGER}/sets/test_batches.py"
_SETS, _SET_STORE = "tests/integration/operators/test_sets.py", f"{_LEDGER}/sets/test_set_store.py"
_SHARED = f"{_LEDGER}/sets/test_shared_steps.py"

_STREAMS = "tests/unit/core/generation/openai/test_stream_api.py"
_READERS = "tests/unit/core/generation/test_stream_readers.py"
_LIVE = "tests/integration/front_door/test_live_text.py"

_REQUESTS, _ASKING = f"{_LEDGER}/job_requests/test_request_store.py", "tests/integration/front_door/test_asking.py"

_OUTBOX, _ADDRESS = f"{_LEDGER}/event_delivery/test_outbox.py", "tests/unit/core/event_delivery/test_address.py"
_POST, _SENDING = "tests/unit/core/event_delivery/test_post.py", "tests/unit/core/event_delivery/test_deliver.py"
_TAKING = f"{_LEDGER}/rates/test_taking.py"
_RATES, _BUCKETS = f"{_LEDGER}/rates/test_rate_store.py", "tests/unit/core/rates/test_bucket.py"
_TOGETHER = f"{_LEDGER}/webhooks/test_inbox_batch.py"
_INTAKE = "tests/unit/core/webhooks/test_intake.py"

_TEAMS = "tests/integration/web/test_teams.py"
_STRANGERS, _BUDGET = "tests/integration/web/test_strangers.py", "tests/integration/web/test_page_budget.py"

#: Seconds for the tests of one guard.
TIMEOUT = 600

_ASSETS = "tests/unit/operators/test_asset_events.py"
_PAUSES = "tests/integration/core/admission/test_pauses.py"
_LIMITS = "tests/integration/core/admission/test_spending_limits.py"
_HELD = "tests/integration/core/effects/test_held_effects.py"

_GREEN, _RED, _NO_ANSWER = "GREEN", "red", "NO ANSWER"


@dataclass(frozen=True)
class Guard:
    """One thing that keeps a promise.

    :param edits: ``(definition, what stands in it, what stands there without the guard)``, together one mutation. The
        definition is a qualified name, as `Definitions.find` takes it: it may move to another module.
    :param test: the test that must turn red.
    """

    name: str
    test: str
    edits: tuple[tuple[str, str, str], ...]


def guard(name: str, test: str, *edits: tuple[str, str, str]) -> Guard:
    """A guard, with its edits as they come."""
    return Guard(name, test, edits)


#: An error that a transaction returns, raised before its commit.
_RAISED_AT_ONCE = """\
            result = work(connection)
            if isinstance(result, HandoffError):
                raise result
            return result
"""

GUARDS = (
    guard(
        "asset: the task that applied the last effect makes the event, unless it has failed",
        f"{_ASSETS}::test_another_task_makes_it_where_the_one_that_wrote_last_has_failed",
        ("_speaks", "return last in lost_tasks([last], asking(context))", "return True"),
    ),
    guard(
        "asset: a later attempt makes no second event",
        f"{_ASSETS}::test_a_later_attempt_makes_it_only_where_airflow_has_none_of_this_revision",
        ("announce", "if any(same.items() <= extra.items() for extra in before):", "if False:"),
    ),
    guard(
        "asset: a set makes no second event of the same jobs",
        f"{_ASSETS}::test_a_set_makes_one_until_more_of_its_jobs_are_written",
        (
            "announce_set",
            'extra.get("set_id") == set_id and extra.get("applied", 0) >= number for extra in before',
            "False for extra in before",
        ),
    ),
    guard(
        "asset: a job that has written nothing is not said to be written",
        "tests/unit/core/effects/test_completion.py::test_a_job_that_is_not_completed_or_has_written_nothing_has_none",
        ("completion_of", "record.job.state is not JobState.COMPLETED or not applied", "not record.history"),
    ),
    guard(
        "asset: one of another type is refused before anything is sent",
        "tests/unit/test_assets.py::test_the_asset_of_another_type_is_refused_before_anything_is_written",
        ("check_type", "if _type_of(alias) != job_type:", "if False:"),
    ),
    guard(
        "upgrade: a package leaves a ledger alone that no longer serves it",
        "tests/unit/core/database/test_ledger_version.py::test_any_other_is_refused_and_what_to_do_is_said",
        (
            "_is_newer_and_serves",
            "ledger.serves_from is not None and ledger.serves_from <= head_version()",
            "ledger.serves_from is not None",
        ),
    ),
    guard(
        "upgrade: an older package does not touch the ledger of a newer one",
        f"{_LEDGER}/database/test_rolling_upgrade.py"
        "::TestOnTheLedgerOfANewerRelease::test_a_second_upgrade_by_the_older_release_leaves_it_as_it_is",
        ("schema:upgrade", "ledger is not None and _is_newer_and_serves(ledger)", "False"),
    ),
    guard(
        "following: nothing is prepared behind a pooler",
        "tests/integration/front_door/test_follow_through_a_pooler.py"
        "::test_in_transaction_mode_one_connection_is_enough_for_all_checks",
        ("listening:listen", "connection.prepare_threshold = None", "pass"),
    ),
    guard(
        "following: a pooler is left with no session that listens",
        f"{_LEDGER}/database/test_listening.py::test_a_pooler_in_transaction_mode_is_left_with_no_session_that_listens",
        ("listening:_share_sessions", "if len(ours) > 1 or ours & theirs:", "if False:"),
    ),
    guard(
        "loop: the iteration that owns a job says whether its task has ended",
        "tests/unit/test_task_states.py::test_each_iteration_of_a_loop_has_the_state_of_its_own_task_instance",
        ("state_among", "owner.ti_id if owner.ti_id in states else _name(owner)", "_name(owner)"),
    ),
    guard(
        "loop: each iteration has a key of its own",
        "tests/unit/test_airflow_compat.py"
        "::test_iterations_of_a_loop_have_keys_of_their_own_and_nothing_is_added_outside_of_one",
        ("loop_suffix", 'return "" if iteration is None else f"/iteration-{iteration}"', 'return ""'),
    ),
    guard(
        "pause: a request asks in the transaction that permits it",
        f"{_PAUSES}::test_a_request_is_held_and_sent_when_the_pause_has_ended",
        (
            "admit_in_batch",
            "if paused := pause_store.hold_of_request(connection, job, revision):",
            "if paused := None:",
        ),
    ),
    guard(
        "wait: a poll under way of a set that went on schedules no other",
        "tests/integration/operators/test_hub.py"
        "::TestOneForAll::test_a_set_that_goes_on_while_one_of_its_responses_is_polled_ends_no_polling",
        ("Hub.wait_for_some", "wait.end(None)", "pass"),
    ),
    guard(
        "wait: of a set, the sweep finds an end though as many responses run",
        "tests/integration/operators/test_hub.py::TestSets::test_one_that_ends_is_found_though_as_many_run",
        (
            "wake_queries:_OTHERS_RUN",
            "string_agg(r.job_id || '.' || r.number, ',' ORDER BY j.job_id)",
            "count(*)::text",
        ),
        ("SetResponses.digest", "hashlib.sha256(running.encode())", "hashlib.sha256(str(len(self._waits)).encode())"),
    ),
    guard(
        "pause: one of a set is about no other",
        "tests/integration/core/sets/test_pause_set.py"
        "::test_a_pause_of_a_set_holds_its_requests_alone_until_it_is_resumed",
        ("pause_store:_IN_FORCE", "AND (set_id IS NULL OR set_id = %(set_id)s)", "AND %(set_id)s::bigint IS NOT NULL"),
    ),
    guard(
        "pause: one of a set stops its writes too",
        "tests/integration/core/sets/test_pause_set.py::test_a_pause_of_a_set_holds_its_writes",
        ("pause_set", "writes=True", "writes=False"),
    ),
    guard(
        "review: what is narrowed to a set is about it alone",
        "tests/integration/web/test_sets.py::test_the_bulk_review_is_about_one_set_and_groups_it_by_reason",
        ("queue_store:_GROUPS", "(%(set_id)s::bigint IS NULL OR set_id = %(set_id)s)", "%(set_id)s::bigint > 0"),
    ),
    guard(
        "pause: an external write asks in the transaction that permits it",
        f"{_HELD}::test_an_effect_is_held_and_sent_once_the_pause_has_ended",
        ("Effects.claim.work", "permit) if own else permit()", "permit) if False else permit()"),
    ),
    guard(
        "pause: a roll-back goes on",
        f"{_HELD}::test_what_is_applied_stays_so_and_a_roll_back_goes_on",
        ("Effects.claim.work", "permit) if own else permit()", "permit)"),
    ),
    guard(
        "pause: the end of one wakes the effects that it held",
        "tests/integration/operators/test_held.py::"
        "test_an_effect_waits_deferred_for_the_end_of_a_pause_and_no_one_is_notified",
        ("wait_or_defer", "            held=wait.held,\n", ""),
    ),
    guard(
        "limit of money: one request at a time finds out",
        f"{_LIMITS}::test_one_request_at_a_time_finds_out_at_growing_intervals",
        ("admit", "else TURN", "else timedelta(0)"),
    ),
    guard(
        "limit of money: an answer that was on its way lifts none",
        f"{_LIMITS}::test_an_answer_that_was_on_its_way_lifts_no_limit",
        ("Submission.submitted.work", "            if finds_out:\n", "            if True:\n"),
    ),
    guard(
        "claim comparison: only the newest attempt records",
        f"{_EFFECTS}::TestFailure::test_a_lost_claim_cannot_record_an_outcome",
        ("_lock_claimed", " or effect.claim_token != claim.token:", ":"),
    ),
    guard(
        "admission: what a limit of speed holds has reserved nothing",
        f"{_BUDGETS}/test_other_limits.py"
        "::test_what_a_limit_of_speed_holds_has_reserved_nothing_and_says_what_it_can_cost",
        ("admit_request", "    _give_back(connection, said)\n    return _said", "    return _said"),
    ),
    guard(
        "admission: what a budget holds finds out nothing about a spending limit",
        f"{_BUDGETS}/test_other_limits.py"
        "::test_what_a_budget_holds_does_not_find_out_whether_a_spending_limit_is_reached",
        ("admit_in_batch", "if admitted.finds_out:", "if False:"),
    ),
    guard(
        "rates: what is in flight is counted while no other asks",
        f"{_RATES}::test_a_limit_is_never_exceeded_by_many_at_once",
        ("rate_store:take", "_locked(connection, asked)", "asked"),
    ),
    guard(
        "rates: where another one was sooner, nothing of the permission is left",
        f"{_TAKING}::test_where_another_write_was_sooner_nothing_of_the_claim_is_left",
        ("_in_time", "    connection.execute(_UNDO_PERMIT)\n", ""),
    ),
    guard(
        "rates: what ends is seen by those that ask at that moment",
        f"{_TAKING}::test_one_that_asks_while_another_one_ends_gets_its_place",
        ("rate_store:ask", "if any(_wait(connection, ask, one) for one in slots):", "if False:"),
    ),
    guard(
        "rates: what ends waits for those that ask at that moment",
        f"{_TAKING}::test_one_that_asks_while_another_one_ends_gets_its_place",
        (
            "slot_freed",
            "connection.execute(_LOCK_SLOTS,",
            "connection.execute(_LOCK_SLOTS.replace('FOR NO KEY UPDATE', ''),",
        ),
    ),
    guard(
        "rates: no period has more than the amount",
        f"{_BUCKETS}::test_no_period_wherever_it_begins_has_more_than_the_amount_not_even_a_slice_late",
        ("Bucket.room_at", "if over <= 0:", "if True:"),
    ),
    guard(
        "rates: a slice late still fits",
        f"{_BUCKETS}::test_no_period_wherever_it_begins_has_more_than_the_amount_not_even_a_slice_late",
        ("Bucket._since", "[:COUNTED]", "[: COUNTED - 4]"),
    ),
    guard(
        "rates: a 429 slows the whole fleet",
        f"{_LEDGER}/generation/test_submit.py::TestRefused"
        "::test_a_429_slows_all_requests_of_the_connection_at_once_and_is_no_try_of_its_job",
        ("Submission.not_submitted.work", "hear(connection, LimitKind.OPENAI, revision.conn_id, heard)", "pass"),
    ),
    guard(
        "rates: a batch goes at least after nine people",
        "tests/unit/core/rates/test_fair_order.py::test_a_batch_goes_after_nine_people",
        ("place", "(in_a_row + ahead) // IN_A_ROW", "0"),
    ),
    guard(
        "rates: refusals are bounded",
        f"{_LEDGER}/generation/test_submission_store.py"
        "::test_a_request_that_is_refused_again_and_again_is_bounded_over_all_attempts",
        ("_admit", "if revision.refusals >= MAX_REFUSALS:", "if False:"),
    ),
    guard(
        "lease: a claim is exclusive while it lasts",
        f"{_EFFECTS}::TestLease::test_while_a_claim_lasts_no_one_else_gets_it_and_everyone_gets_its_expiry",
        ("Effects.claim.work", "                if left > 0:\n", "                if False:\n"),
    ),
    guard(
        "lease: the reconciler leaves a claim that lasts",
        "tests/integration/core/reconcile/test_claims.py::test_an_effect_that_is_confirmed_before_the_step_is_left",
        (
            "Effects.give_up.work",
            "if effect.state is EffectState.CLAIMED and _seconds_left",
            "if _seconds_left",
        ),
    ),
    guard(
        "fencing: an attempt that was paused does not send",
        f"{_GUARDS}::TestFence::test_an_attempt_that_was_taken_over_meanwhile_no_longer_sends",
        ("_check_fence", "if paused >= CLAIM_MARGIN:", "if False:"),
    ),
    guard(
        "fencing: a process that was really paused does not send",
        "tests/integration/crashes/test_matrix.py::test_struck_at_a_point_and_gone_on_with_it_wrote_everything_once"
        "[stop at apply.send: before call (label, neither)]",
        ("_check_fence", "if paused >= CLAIM_MARGIN:", "if False:"),
    ),
    guard(
        "fencing: the lease covers the call",
        f"{_GUARDS}::TestFence::test_the_claim_lasts_for_as_long_as_the_call_that_begins_last",
        ("apply_effect", "seconds=target.call_seconds + CLAIM_MARGIN", "seconds=CLAIM_MARGIN"),
    ),
    guard(
        "plan digest: only the approved request is sent",
        f"{_EFFECTS}::TestRefusal::test_a_request_that_is_not_the_approved_one_is_refused_with_what_differs",
        ("Effects.claim.work", "            _check_plan(job, effect, plan)\n", ""),
    ),
    guard(
        "plan digest: only the planned undo is sent",
        f"{_GUARDS}::TestRollBack::test_an_undo_is_what_was_planned",
        ("Effects.claim.work", "            _check_plan(job, effect, plan)\n", ""),
    ),
    guard(
        "secrets: what a probe has read is shown in no plan",
        "tests/unit/operators/test_parts.py::test_what_the_probe_has_read_is_shown_in_no_plan",
        (
            "SideEffectOperator.effect_plan",
            "            shown = masked(plan, secrets, self.shown_fields)",
            "            pass",
        ),
    ),
    guard(
        "secrets: what the kind of an undo sends as secrets is masked",
        "tests/unit/operators/test_masking.py::TestDigest"
        "::test_what_the_kind_of_an_undo_sends_as_secrets_is_masked_and_registered",
        ("_shown_undo", '{*secrets, *target_type(undo["kind"]).secret_fields}', "set(secrets)"),
    ),
    guard(
        "secrets: an error of a target is cleaned before it is recorded",
        "tests/integration/targets/test_http.py::TestErrors"
        "::test_the_error_of_a_failed_tls_handshake_does_not_show_the_query",
        (
            "apply:_send",
            "call_cleaned(lambda: known.apply(request, key), _secrets(plan))",
            "known.apply(request, key)",
        ),
        ("HttpTarget._request", "{cleaned(str(never))}", "{never}"),
    ),
    guard(
        "secrets: an error of the ledger quotes no row",
        f"{_LEDGER}/database/test_connection.py::TestErrors"
        "::test_an_error_of_a_statement_says_what_was_wrong_and_quotes_no_row",
        ("Database._until_commit", "            strip_detail(error)  # which quotes rows\n", ""),
    ),
    guard(
        "secrets: the digest of an input is keyed",
        f"{_LEDGER}/generation/test_submission_store.py::TestKeyedDigests"
        "::test_no_digest_in_the_ledger_can_be_made_without_the_key",
        (
            "input_digest_of_json",
            'KEYED + hmac.new(key.encode(), digest_of_json(text).encode("ascii"), "sha256").hexdigest()',
            "digest_of_json(text)",
        ),
    ),
    guard(
        "placeholders: a text that reads like one is none",
        "tests/integration/operators/test_rendering.py::TestPlaceholders"
        "::test_what_reads_like_a_placeholder_or_a_mask_in_an_output_neither_forbids_nor_changes_the_roll_back",
        ("plan_undo", "            undo[LITERALS] = literals\n", "            pass\n"),
    ),
    guard(
        "templates: a value of another task is not rendered",
        "tests/integration/operators/test_rendering.py::TestTwice"
        "::test_a_value_from_another_task_is_not_rendered_in_a_mapped_task",
        (
            "RendersText._do_render_template_fields",
            "            seen_oids.update(map(id, _parts(value)))\n",
            "            pass\n",
        ),
    ),
    guard(
        "review digest: a stale decision is refused",
        f"{_LEDGER}/review/test_review_store.py::TestDecide::test_a_digest_that_is_no_longer_the_jobs_is_refused_with_what_changed",
        ("check_digest", "    if job.review_digest != digest:\n        raise", "    if False:\n        raise"),
    ),
    guard(
        "four eyes: the requester does not decide",
        f"{_LEDGER}/review/test_rules.py::TestWho::test_the_requester_decides_nothing",
        ("check_person", "if why := why_not(job, person):", "if (why := why_not(job, person)) and not why:"),
    ),
    guard(
        "decision link: it counts for no one else",
        f"{_LINKS}::TestWho::test_it_counts_for_no_one_else",
        ("check_is_for", "if link.person not in person.names:", "if False:"),
    ),
    guard(
        "decision link: it counts for what it was sent about",
        f"{_LINKS}::TestSuperseded::test_another_plan_is_not_what_it_is_about",
        ("link_store:_check", "job, link.digest, since=", "job, str(job.review_digest), since="),
        ("DecisionLinks.decide", "link.verdict, link.digest, person", "link.verdict, str(job.review_digest), person"),
    ),
    guard(
        "decision link: it counts for the revision that it was sent about",
        f"{_LINKS}::TestSuperseded::test_another_revision_is_not_either",
        ("check_is_open", "if link.revision != job.revision:", "if False:"),
    ),
    guard(
        "decision link: it works once",
        f"{_LINKS}::TestOnce::test_it_does_not_count_again_where_what_was_approved_is_asked_about_again",
        ("check_is_open", "if link.used_at is not None:", "if False:"),
    ),
    guard(
        "decision link: it is read again once the job is locked",
        f"{_LINKS}::TestOnce::test_two_servers_that_are_asked_at_once_record_one_decision",
        (
            "DecisionLinks.decide",
            "            job = history.lock(connection, _read(connection, token).job_id)\n"
            "            link = _read(connection, token)",
            "            link = _read(connection, token)\n            job = history.lock(connection, link.job_id)",
        ),
    ),
    guard(
        "decision link: it expires",
        f"{_LINKS}::TestTime::test_an_expired_one_decides_nothing",
        ("check_is_open", "if at >= link.expires_at:", "if False:"),
    ),
    guard(
        "decision link: it does not outlive the review",
        f"{_LINKS}::TestTime::test_it_expires_with_the_review_at_the_latest",
        ("link_store:_INSERT", "least(review_deadline, clock_timestamp() + %(lifetime)s::interval)", "'infinity'"),
    ),
    guard(
        "decision link: its token is not logged",
        "tests/integration/web/test_decision_links.py::test_the_address_is_neither_cached_nor_sent_on_nor_logged",
        ("loggable", '_TOKEN.sub("***", str(path))', "str(path)"),
    ),
    guard(
        "decision link: opening it decides nothing",
        "tests/integration/web/test_decision_links.py::test_a_click_decides_and_opening_the_link_does_not",
        (
            "decision_link_page:show",
            "        _check(ledger, viewer, link, token)\n",
            "        ledger.decision_links.decide(token, person=viewer.person)\n",
        ),
    ),
    guard(
        "decision link: it shows nothing of a job to a person who may not see it",
        "tests/integration/web/test_decision_links.py"
        "::TestRefused::test_it_does_not_show_a_job_that_its_person_may_not_see",
        (
            "decision_link_page:_check",
            "job = check_visible(ledger, viewer, link.job_id)",
            "job = ledger.job(link.job_id)",
        ),
        ("visible_record", "    check_visible(ledger, viewer, job_id)\n", ""),
    ),
    guard(
        "required action: an answer counts for the digest that it names",
        "tests/unit/core/review/test_required_action.py::test_anything_else_is_no_verdict",
        ("required_action:_verdict", "meant.get(chosen[0])", "meant.get(f'{chosen[0].split()[0]} {digest[:_SHOWN]}')"),
    ),
    guard(
        "required action: a name is no markup",
        "tests/unit/core/review/test_required_action.py::test_a_name_is_shown_as_it_is_and_is_no_markup",
        ("required_action:_code", "shown = escape(text)\n", "return escape(text)\n"),
    ),
    guard(
        "required action: the permission on another Dag decides nothing",
        "tests/unit/operators/test_required_actions.py::test_an_answer_that_decides_nothing",
        ("record_answer", "if job.dag_id != parked.dag_id:", "if False:"),
    ),
    guard(
        "required action: a name that users can change is no login",
        "tests/unit/operators/test_required_actions.py::test_a_name_that_users_can_change_is_no_login",
        ("record_answer", "if not _names_the_login(answer):", "if False:"),
    ),
    guard(
        "required action: a vote that a reassignment has voided does not count again",
        "tests/unit/operators/test_required_actions.py::test_an_answer_that_decides_nothing",
        ("record_answer", "if reassigned and not has_voted(", "if False and not has_voted("),
    ),
    guard(
        "required action: blind readers are not asked there",
        "tests/unit/operators/test_required_actions.py"
        "::test_airflows_list_does_not_ask_blind_readers_nor_for_another_dag",
        ("may_be_answered_there", " and not rules_of(job).is_blind", ""),
    ),
    guard(
        "required action: a task that this Airflow does not know is not forgotten at once",
        "tests/integration/core/review/test_parked_store.py"
        "::test_a_task_that_airflow_does_not_know_is_kept_until_it_was_due_for_ten_minutes",
        ("parked_store:_REMOVE_UNKNOWN", "AND (p.until < clock_timestamp() - interval '10 minutes'", "AND (true"),
    ),
    guard(
        "required action: an answer without a user decides nothing",
        "tests/unit/operators/test_required_actions.py::test_an_answer_that_decides_nothing",
        ("record_answer", "if answer.login is None:", "if False:"),
    ),
    guard(
        "required action: an answer is not lost with the task that Airflow resumes",
        f"{_PARKED}::test_an_answer_is_not_lost_with_a_task_that_airflow_loses_when_it_resumes_it",
        ("parked_tasks:follow_up", "record_answer(ledger, each, listed.answer)", "pass"),
    ),
    guard(
        "parked tasks: no other task is woken or asked about",
        f"{_PARKED}::test_no_other_task_is_touched_whatever_the_ledger_says",
        ("parked_tasks:_locked", "if instance.next_method == _METHOD:", "if True:"),
    ),
    guard(
        "parked tasks: a job that another run has taken over is not cancelled",
        f"{_PARKED}::test_marking_the_task_failed_while_it_waits_cancels_the_job_if_it_is_still_its_runs",
        ("Cancels.cancel_review", " and (job.dag_id, job.run_id) == run", ""),
    ),
    guard(
        "parked tasks: one that is parked again meanwhile is not forgotten",
        f"{_LEDGER}/review/test_parked_store.py::test_what_is_parked_again_meanwhile_is_not_forgotten",
        ("parked_store:_REMOVE", " AND p.parked_at = gone.parked_at", ""),
    ),
    guard(
        "parked tasks: none is woken before the minimum wait",
        f"{_LEDGER}/review/test_parked_store.py"
        "::test_a_task_is_due_when_its_time_has_come_and_never_before_the_minimum_wait",
        ("parked_store:_DUE", "p.not_before <= clock_timestamp() AND ", ""),
    ),
    guard(
        "quorum: as many approve as the author says",
        f"{_LEDGER}/review/test_rules.py::TestQuorum::test_the_last_vote_that_it_takes_approves",
        ("_count_votes", "        if votes < needed[job.job_id]:\n", "        if False:\n"),
    ),
    guard(
        "quorum: a person has one vote, at a terminal too",
        f"{_LEDGER}/review/test_rules.py::TestLoginsOfAnyForm::test_two_logins_are_two_votes_and_one_is_one",
        ("distinct", "found.setdefault(person.name, person)", "found.setdefault(str(person), person)"),
    ),
    guard(
        "four eyes: an account may be that of the login",
        f"{_LEDGER}/review/test_rules.py::TestLoginsOfAnyForm::test_who_asked_is_kept_out_and_the_other_is_not",
        (
            "Person.may_have_asked_as",
            "names = self._logins | {TERMINAL + self.login} if self.at_terminal",
            "names = frozenset({TERMINAL + self.login}) if self.at_terminal",
        ),
    ),
    guard(
        "same run: the one of this Dag and run",
        f"{_LEDGER}/generation/test_submission_store.py::TestRevise::test_a_run_of_any_name_is_distinguished_from_every_other",
        (
            "submission_store:_OF_RUN",
            "actor_dag_id = %s AND actor_run_id = %s",
            "actor_dag_id = %s AND starts_with(actor_run_id, %s)",
        ),
    ),
    guard(
        "transact: an error that is returned comes after the commit",
        f"{_LEDGER}/database/test_connection.py::TestBrokenConnections"
        "::test_an_error_that_the_work_returns_is_raised_after_the_commit",
        ("Database._until_commit", "            return work(connection)\n", _RAISED_AT_ONCE),
    ),
    guard(
        "persist: an outcome is recorded whatever the database answers first",
        f"{_LEDGER}/database/test_passing_failures.py::TestOutcome"
        "::test_of_a_write_is_recorded_once_whatever_the_database_answers_first",
        ("Database._until_commit", "if connection.broken or sqlstates.passes(error):", "if connection.broken:"),
    ),
    guard(
        "persist: what would be lost is kept at the first failure",
        f"{_LEDGER}/database/test_passing_failures.py::TestOutcome"
        "::test_is_kept_elsewhere_at_the_first_failure_and_only_then",
        ("Database.persist", "                    keep()\n", "                    pass\n"),
    ),
    guard(
        "kept outcome: a write that was made is not sent again",
        f"{_APPLYING}/test_attempt.py::TestKept"
        "::test_a_write_that_could_not_be_recorded_is_recorded_by_the_next_attempt_and_not_sent_again",
        (
            "apply_effect",
            "            if record_kept(ledger, busy.effect, memory=memory, actor=actor):\n                continue\n",
            "",
        ),
    ),
    guard(
        "kept outcome: only that of the newest claim",
        f"{_APPLYING}/test_attempt.py::TestKept::test_what_another_claim_or_another_plan_kept_is_not_taken",
        ("record_kept", ' and facts["token"] == str(effect.claim_token)', ""),
    ),
    guard(
        "kept response: it is waited for, and no other is paid",
        f"{_LEDGER}/generation/test_kept_response.py"
        "::test_the_next_attempt_waits_for_the_response_that_runs_and_sends_nothing",
        (
            "submit:submit",
            "    if (kept := _record_kept(ledger, provider, job, found, memory, actor)) is not None:\n"
            "        return kept\n",
            "",
        ),
    ),
    guard(
        "quorum: another plan voids the votes",
        f"{_LEDGER}/review/test_rules.py::TestQuorum::test_a_digest_that_comes_back_is_voted_on_again",
        ("OF_NOW", "d.decision_id > coalesce(jobs.decided_before, 0)", "true"),
    ),
    guard(
        "metrics: what is rolled back says nothing",
        f"{_SIGNALS}::test_nothing_is_said_of_what_was_rolled_back",
        ("LedgerConnection.forget", "= since or (set(), [])", "= since or (set(), self.signals)"),
    ),
    guard(
        "metrics: the values of a label are bounded",
        "tests/unit/core/test_signals.py::test_the_values_of_a_label_are_bounded_in_number_and_length",
        ("core.signals:label_value", " and len(seen) >= MAX_VALUES", " and False"),
    ),
    guard(
        "traces: an error is recorded without its text",
        "tests/integration/operators/test_traces.py::test_a_refused_effect_is_a_failed_span_without_what_the_target_said",
        ("OpenTelemetryTracer.span", "record_exception=False", "record_exception=True"),
    ),
    guard(
        "webhook secrets: none is made that could not be kept",
        "tests/integration/operators/test_webhook_setup.py::"
        "test_no_secret_is_made_that_could_not_be_kept_unless_it_is_to_be_printed",
        ("webhook_setup:_check_place", "if print_secret or is_of_database(conn_id, known):", "if True:"),
    ),
    guard(
        "bulk decision: all of it or nothing",
        f"{_LEDGER}/review/test_many.py::test_jobs_in_several_lots_are_all_decided_or_none",
        ("Reviews.decide_many.work", '            connection.execute("ROLLBACK TO SAVEPOINT bulk")\n', ""),
    ),
    guard(
        "quorum: a vote is no decision in force",
        f"{_LEDGER}/review/test_rules.py::TestQuorum::test_the_last_vote_that_it_takes_approves",
        ("_count_votes", "changes={})", ")"),
    ),
    guard(
        "bulk decision: no line for a job that another process has moved",
        f"{_LEDGER}/review/test_many.py::test_many_steps_are_refused_together_where_another_process_has_moved_one",
        ("history:_store", "!= len(rows):", "!= len(rows) and False:"),
    ),
    guard(
        "metrics: each of the steps that are alike is counted",
        "tests/unit/core/database/test_step_log.py::test_steps_that_are_alike_are_counted_at_once",
        ("say_steps", "signals.count(signals.STEPS, number, ", "signals.count(signals.STEPS, 1, "),
    ),
    guard(
        "bulk decision: what waits for the jobs is notified",
        f"{_LEDGER}/review/test_many.py::test_what_waits_for_each_of_the_jobs_is_notified",
        ("history:_tell", " if line.event in WAKING_JOB_EVENTS)", " if False)"),
    ),
    guard(
        "decision on all: the number is confirmed",
        f"{_BULK_REVIEW}::test_another_number_than_the_page_says_confirms_nothing",
        ("decide_all", "if sent.count != len(sent.choices):", "if False:"),
    ),
    guard(
        "decision on all: what waits for others is left out",
        f"{_BULK_REVIEW}::test_jobs_of_other_reviewers_are_left_out_of_the_decision_on_all",
        ("_all_page", "if job_id in queue.mine_ids and ", "if "),
    ),
    guard(
        "decision on all: the values of fields narrow it",
        f"{_BULK_REVIEW}::test_all_jobs_with_a_value_are_decided_on_and_no_others",
        ("narrowed", "if matches(each.output, scope.chosen):", "if True:"),
    ),
    guard(
        "review queue: an escalation changes who may decide",
        f"{_LEDGER}/review/test_queue.py::test_a_job_that_differs_in_one_thing_has_an_answer_of_its_own",
        ("decides_who", "job.escalated_at is not None", "True"),
    ),
    guard(
        "review queue: jobs with other rules are other groups",
        f"{_LEDGER}/review/test_queue.py::test_a_job_that_differs_in_one_thing_has_an_answer_of_its_own",
        ("_COMMON", "triggered_by, review::text, ", "triggered_by, "),
        ("_GROUPS", "review::text::json AS review", "min(review::text)::json AS review"),
    ),
    guard(
        "edit: its plan is its own",
        f"{_LEDGER}/review/test_edits.py::TestEdit"
        "::test_a_plan_that_was_rendered_for_the_revision_before_is_not_taken_for_it",
        ("Reviews.ask.work", "if revision not in (None, job.revision):", "if False:"),
    ),
    guard(
        "approval: nothing is claimed before it",
        f"{_EFFECTS}::TestRefusal::test_before_approval_nothing_is_claimed",
        ("Effects.claim.work", "            if own:\n                _check_approved(connection, job)\n", ""),
    ),
    guard(
        "approval: it names the digest of now",
        f"{_EFFECTS}::TestRefusal::test_a_decision_on_another_digest_approves_nothing",
        ("_check_approved", "        and bound\n", ""),
    ),
    guard(
        "approval: another plan voids it",
        f"{_LEDGER}/review/test_review_store.py::TestAsk::test_a_different_plan_voids_the_approval",
        ("_plan", "            event = JobEvent.PLAN_CHANGED\n", ""),
    ),
    guard(
        "plan: it stays once something may be written",
        f"{_LEDGER}/review/test_review_store.py::TestAsk::test_once_something_may_have_been_written_the_plan_stays",
        (
            "_plan",
            " or anything_touched(connection, job.job_id):\n        return job\n    rev",
            ":\n        return job\n    rev",
        ),
    ),
    guard(
        "revision: none while something stays written",
        f"{_LEDGER}/generation/test_submission_store.py::TestRevise::test_a_regenerate_is_refused_while_an_external_write_is_not_undone",
        ("decide_attachment", "refuse = touched or state is JobState.ROLLING_BACK", "refuse = False"),
    ),
    guard(
        "marker: a statement is committed once",
        "tests/integration/operators/test_postgres_effects.py"
        "::test_the_same_key_again_runs_nothing_and_gives_back_what_the_first_one_returned",
        ("PostgresTarget._run", "if cursor.rowcount == 0:", "if False:"),
    ),
    guard(
        "marker: an attempt that died does not hold it",
        f"{_TARGETS}/test_postgres.py"
        "::TestBounds::test_an_attempt_that_died_in_its_transaction_does_not_hold_the_next_one",
        (
            "PostgresTarget._run",
            'cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = {_IDLE_TIMEOUT}")',
            "pass",
        ),
    ),
    guard(
        "bounds: a database that stops in the middle is cut off",
        f"{_TARGETS}/test_postgres.py"
        "::TestBounds::test_a_server_that_stops_in_the_middle_is_not_now_and_a_retry_writes_once",
        ("postgres_session:_watched", "watch.connected(connection)", "pass"),
    ),
    guard(
        "bounds: a mail server that drips is cut off",
        f"{_TARGETS}/test_email.py::TestBounds"
        "::test_a_server_that_drips_is_cut_off_at_the_end_of_the_whole_time_and_nothing_has_left[greeting]",
        ("smtp_client:connect", "watch.connected(made)", "pass"),
    ),
    guard(
        "mail: half of an answer is none",
        f"{_TARGETS}/test_email.py::TestBounds"
        "::test_a_server_that_drips_is_cut_off_at_the_end_of_the_whole_time_and_nothing_has_left[sender]",
        ("_Bounded.readline", 'if line and len(line) != limit and not line.endswith(b"\\n"):', "if False:"),
    ),
    guard(
        "inbox: one row a webhook",
        f"{_LEDGER}/webhooks/test_inbox.py::TestApplied::test_a_repeated_webhook_is_counted_and_changes_nothing_else",
        ("schema.sql", "webhook_id text PRIMARY KEY,", "webhook_id text,"),
        (
            "_RECORD",
            "ON CONFLICT (webhook_id) DO UPDATE SET deliveries = i.deliveries + 1, updated_at = clock_timestamp()",
            "",
        ),
    ),
    guard(
        "inbox: a repeated delivery changes nothing",
        f"{_LEDGER}/webhooks/test_inbox.py::TestApplied::test_a_repeated_webhook_keeps_its_disposition_after_its_job_has_moved_on",
        ("_receive", "    if not receipt.repeated:\n", "    if True:\n"),
    ),
    guard(
        "inbox: a repeated delivery has the body that came first",
        f"{_LEDGER}/webhooks/test_inbox.py::TestApplied::test_a_repeated_webhook_is_counted_and_changes_nothing_else",
        ("inbox:_receipt", "**row if repeated else {", "**{"),
    ),
    guard(
        "inbox: a repeated delivery changes nothing in a batch either",
        f"{_TOGETHER}::TestTogether::test_a_webhook_that_a_person_has_discarded_stays_so_when_it_comes_again",
        ("_receive_together", " if not receipt.repeated]", "]"),
    ),
    guard(
        "inbox: a batch waits for no job that another process has locked",
        f"{_TOGETHER}::TestLeft::test_a_job_that_another_process_has_locked_holds_up_no_one",
        ("inbox_batch:_FIND", "FOR UPDATE OF j, r SKIP LOCKED", "FOR UPDATE OF j, r"),
    ),
    guard(
        "inbox: a batch puts no response into quarantine that its worker is storing",
        f"{_TOGETHER}::TestLeft::test_an_id_that_its_worker_is_storing_is_left_and_not_put_into_quarantine",
        ("_LOCK_RESPONSES", "pg_try_advisory_xact_lock(hashtextextended(response_id, 0))", "true"),
    ),
    guard(
        "inbox: a batch puts no response into quarantine whose job is locked",
        f"{_TOGETHER}::TestLeft::test_a_revision_that_is_known_although_it_was_not_found_is_left",
        (
            "_find_unknown",
            'locked - {row["response_id"] for row in connection.execute(_KNOWN, [list(locked)])}',
            "locked",
        ),
    ),
    guard(
        "inbox: of two webhooks about one job, a batch takes the first",
        f"{_TOGETHER}::TestLeft::test_webhooks_about_one_job_are_recorded_one_after_the_other_in_their_order",
        ("_first_of_each", "None if names & seen else each", "each"),
    ),
    guard(
        "history: no line of a batch is written for a job that has moved on",
        f"{_LEDGER}/database/test_history.py::"
        "test_lines_are_appended_to_several_jobs_or_where_one_has_moved_on_to_none",
        ("append_each", ".rowcount != len(lines):", ".rowcount > len(lines):"),
    ),
    guard(
        "receiver: a delivery that the ledger refuses fails none beside it in its batch",
        f"{_INTAKE}::test_a_delivery_that_the_ledger_refuses_fails_none_of_those_that_came_with_it",
        ("Intake._record_together", " and not isinstance(error, _Refused)", ""),
    ),
    guard(
        "receiver: a job that stays locked closes the receiver to no one else",
        f"{_INTAKE}::test_a_job_that_stays_locked_refuses_its_own_webhook_alone",
        ("Intake._run", " or (alone and _waited_for_a_lock(error))", ""),
    ),
    guard(
        "receiver: deliveries about one response are recorded in their order",
        f"{_INTAKE}::test_deliveries_about_one_response_are_recorded_one_after_the_other_as_they_came",
        ("Intake._take", "if place.about in self._recording:", "if False:"),
    ),
    guard(
        "receiver: a batch that hangs holds up no others",
        f"{_INTAKE}::test_a_batch_that_hangs_holds_up_no_others",
        ("Intake._may_begin", "(late or len(self._waiting) >= BATCH)", "len(self._waiting) >= BATCH"),
    ),
    guard(
        "inbox: an early webhook is adopted",
        f"{_LEDGER}/webhooks/test_inbox.py::TestQuarantine::test_an_early_webhook_is_applied_the_moment_the_worker_stores_the_id",
        ("Submission.submitted.work", "return adopt_early(connection, job, revision)", "return revision"),
    ),
    guard(
        "what a create brings is taken, since not every server has it afterwards",
        "tests/integration/operators/test_servers.py::test_what_a_create_brings_is_taken_and_not_asked_for_again",
        ("submit", "if take is None or not sent.readable:", "if True:"),
    ),
    guard(
        "a limit of money is not waited out in a worker slot",
        "tests/unit/core/generation/openai/test_failures.py::TestStatuses",
        ("names_money", "return _MONEY.search(code) is not None and _SPEED.search(code) is None", "return False"),
    ),
    guard(
        "a safety notice is kept until a person discards it",
        f"{_LEDGER}/reconcile/test_reviews_and_webhooks.py::TestWebhooks",
        ("_receive", "if is_safety_notice(delivery.event_type):", "if False:"),
    ),
    guard(
        "terminal states: a job that has ended claims nothing",
        "tests/unit/core/test_states_search.py::test_both_tables_are_as_they_are_named_complete_and_without_dead_ends",
        (
            "JOB_TRANSITIONS",
            "    (_S.COMPLETED, _E.ROLL_BACK_STARTED)",
            "    (_S.COMPLETED, _E.EFFECT_CLAIMED): _S.APPLYING,\n    (_S.COMPLETED, _E.ROLL_BACK_STARTED)",
        ),
    ),
    guard(
        "terminal states: an applied effect is not sent again",
        f"{_EFFECTS}::TestOnce::test_an_applied_effect_is_given_back_and_never_sent_again",
        ("_nothing_to_send", "if effect is not None and effect.state is EffectState.APPLIED:", "if False:"),
        (
            "EFFECT_TRANSITIONS",
            "    (_ES.CLAIMED, _EE.CONFIRM)",
            "    (_ES.APPLIED, _EE.CLAIM): _ES.CLAIMED,\n    (_ES.CLAIMED, _EE.CONFIRM)",
        ),
    ),
    guard(
        "the table decides: every other event is refused",
        f"{_LEDGER}/database/test_history.py::TestMove::test_a_refused_event_names_job_state_and_event_and_leaves_no_line",
        (
            "_moved",
            "    state = next_job_state(job.state, event)\n",
            "    state = next_job_state(job.state, event) or job.state\n",
        ),
    ),
    guard(
        "one step at a time: a job that moved is not moved again",
        f"{_LEDGER}/database/test_history.py::TestMove::test_a_job_that_another_process_moved_is_not_moved_again",
        (
            "_MOVE",
            " AND state = %(was)s\n        AND event_seq = %(seq)s - 1 RETURNING",
            " RETURNING",
        ),
        ("schema.sql", "PRIMARY KEY (job_id, seq)", "CHECK (seq > 0)"),
    ),
    guard(
        "one step at a time: of many jobs none is moved where one has moved on",
        f"{_LEDGER}/database/test_history.py::test_several_jobs_are_moved_or_where_one_has_moved_on_none",
        ("_MOVE_EACH", " AND j.state = line.was\n        AND j.event_seq = line.seq - 1 RETURNING", " RETURNING"),
        ("schema.sql", "PRIMARY KEY (job_id, seq)", "CHECK (seq > 0)"),
    ),
    guard(
        "order: an effect waits for those before it",
        f"{_EFFECTS}::TestOrder::test_an_effect_waits_for_those_that_its_author_wants_before_it",
        ("Effects.claim.work", "            _check_order(connection, job, effect)\n", ""),
    ),
    guard(
        "order: the last write is undone first",
        f"{_GUARDS}::TestRollBack::test_the_last_write_is_undone_first",
        ("Effects.claim.work", "            _check_order(connection, job, effect)\n", ""),
    ),
    guard(
        "cancel: nothing is claimed after it",
        f"{_GUARDS}::TestCancelWhileApplying::test_an_unclaimed_effect_can_no_longer_be_claimed_after_a_cancel",
        ("Effects.claim.work", "            elif job.cancelling is not None:\n", "            elif False:\n"),
        (
            "Cancels._cancel_applying",
            "        void_plans(connection, job)\n        under_way",
            "        under_way",
        ),
    ),
    guard(
        "cancel: nothing is sent again after it",
        f"{_GUARDS}::TestCancelWhileApplying::test_an_unknown_effect_is_not_sent_again_after_a_cancel",
        (
            "Effects.claim.work",
            "if effect.resends >= resends or job.cancelling is not None:",
            "if effect.resends >= resends:",
        ),
    ),
    guard(
        "unknown: nothing is sent again unasked",
        f"{_EFFECTS}::TestLease::test_after_the_lease_nothing_is_sent_again_unless_it_is_requested",
        ("Effects.claim.work", "if effect.resends >= resends or job.cancelling is not None:", "if False:"),
    ),
    guard(
        "unknown: only a target that can repeat gets it twice",
        f"{_GUARDS}::TestSentAgain::test_a_target_that_is_not_declared_to_take_it_twice_does_not_get_it_twice",
        ("apply:_takes_it_again", "target.idempotent and effect.resends", "effect.resends"),
    ),
    guard(
        "unknown: a second answer speaks for itself only",
        f"{_GUARDS}::TestSentAgain::test_the_second_answer_is_proof_for_the_second_attempt_only",
        ("apply:_not_applied", "    if claim.resent:\n", "    if False:\n"),
    ),
    guard(
        "probe: nothing found counts only after the grace time",
        f"{_GUARDS}::TestProbe::test_a_probe_that_sees_nothing_is_believed_only_after_the_grace_time",
        (
            "apply:_find_outcome",
            "(isinstance(found, NotApplied) and left <= 0 and again)",
            "(isinstance(found, NotApplied) and again)",
        ),
    ),
    guard(
        "refusal: a write of its own is probed first",
        f"{_APPLYING}/test_apply.py::TestRefused::test_a_second_attempt_may_be_refused_because_the_first_one_came_late",
        (
            "apply:_not_applied",
            "if answered and target.can_probe:",
            "if False:",
        ),
    ),
    guard(
        "refusal: also of a first attempt",
        f"{_APPLYING}/test_apply.py"
        "::TestRefused::test_a_precondition_may_fail_because_an_intermediary_has_sent_the_same_request_twice",
        (
            "apply:_not_applied",
            "if answered and target.can_probe:",
            "if answered and target.can_probe and claim.effect.attempt > 1:",
        ),
    ),
    guard(
        "not now: the probe is asked before it is sent again",
        f"{_APPLYING}/test_probing.py"
        "::TestNotNow::test_the_probe_is_asked_before_a_target_that_said_not_now_gets_it_again",
        (
            "apply:_not_applied",
            "if answered and target.can_probe:",
            "if answered and target.can_probe and not not_now:",
        ),
    ),
    guard(
        "unknown: it is sent again as often as declared",
        f"{_APPLYING}/test_probing.py"
        "::TestSentAgain::test_what_stays_unknown_is_sent_again_as_often_as_declared_and_then_held",
        (
            "apply:_find_outcome",
            "(effect.not_now or effect.resends < target.resends)",
            "True",
        ),
    ),
    guard(
        "verify: a confirmed write without a trace is not sent again",
        f"{_APPLYING}/test_probing.py::TestVerified::test_a_confirmed_write_without_a_trace_is_held_and_not_sent_again",
        ("apply:_find_outcome", "again = effect.result is None and", "again = True and"),
    ),
    guard(
        "probe: what it saw before anything was sent is no find",
        f"{_APPLYING}/test_probing.py::TestTried::test_what_the_probe_saw_before_anything_was_sent_is_no_find",
        ("apply:_probe", "if isinstance(found, Applied) and not effect.find_counts:", "if False:"),
    ),
    guard(
        "roll back: what was there before stays",
        f"{_APPLYING}/test_probing.py::TestRefused::test_what_was_there_before_is_applied_and_never_rolled_back",
        ("undo:why_not", "if effect.own is False:", "if False:"),
    ),
    guard(
        "earlier effects: a later attempt sends what the first one sent",
        f"{_DEPENDENT}::TestUnknownOutcome::test_an_attempt_after_a_lost_one_sends_the_same",
        ("effect_store:_filled", "or (effect.state is EffectState.UNKNOWN and effect.filled is not None)", ""),
    ),
    guard(
        "earlier effects: one that is not applied brings nothing",
        "tests/unit/core/effects/test_filled.py::TestValues::test_an_effect_that_is_not_applied_brings_nothing",
        ("filled:_value_of", "if effect.state is not EffectState.APPLIED:", "if False:"),
    ),
    guard(
        "earlier effects: a value is one step of a path",
        f"{_DEPENDENT}::test_a_value_that_would_change_the_path_is_not_sent",
        ("filled:fill_in.written", "if why := target.refuses(field, value):", "if why := None:"),
    ),
    guard(
        "earlier effects: a whole path has no dot step",
        f"{_DEPENDENT}::test_a_step_that_only_the_whole_path_makes_is_not_sent",
        ("endpoints:session_to", "if has_dot_step(urlsplit(url).path):", "if False:"),
    ),
    guard(
        "earlier effects: a secret of an answer is not kept",
        f"{_DEPENDENT}::test_a_field_that_cannot_be_used_stops_the_later_effect_before_it_is_sent",
        ("filled:_unusable", 'return "it is a secret" if', 'return "it is a secret" if False and'),
    ),
    guard(
        "earlier effects: an undo that cannot be sent is known before",
        f"{_DEPENDENT}::TestUndo::test_an_effect_whose_undo_could_not_be_sent_is_not_sent",
        ("apply:_filled", "        check_undo(plan.undo, effect.filled)\n", ""),
    ),
    guard(
        "earlier effects: an undo has what the history has",
        f"{_DEPENDENT}::TestUndo::test_a_value_that_is_not_the_one_of_the_history_undoes_nothing",
        (
            "approved_undo:_altered",
            "filled = digest(effect.filled) if effect.filled else None",
            'filled = (fact or {}).get("filled_digest")',
        ),
    ),
    guard(
        "earlier effects: what an operator does not fill in is refused",
        f"{_DEPENDENT}::TestOtherKinds"
        "::test_an_operator_of_ones_own_fills_in_what_it_says_it_does_and_nothing_is_sent_unfilled",
        ("SideEffectOperator._check_filled_in", "if left:", "if False:"),
    ),
    guard(
        "restoring undo: what an attempt has written is not what was there",
        f"{_RESTORING}::test_what_a_lost_attempt_has_written_is_not_taken_for_what_was_there",
        ("SideEffectOperator.readings_of_attempts", "if effect.attempt and effect.current", "if False"),
    ),
    guard(
        "restoring undo: a target that has changed is not written to",
        f"{_RESTORING}::test_a_target_that_has_changed_since_the_approval_is_not_written_to",
        ("SideEffectOperator.readings_of_attempts", "if effect.attempt and effect.current", "if effect.current"),
    ),
    guard(
        "restoring undo: a secret is not restored",
        f"{_RESTORING}::test_an_undo_that_cannot_be_made_is_refused_when_it_is_planned",
        ("_Restoring._found", "if MASK in text_of(found):", "if False:"),
    ),
    guard(
        "resolve: a probe speaks for the attempt it checked",
        f"{_EFFECTS}::TestLease::test_a_probe_result_of_an_earlier_attempt_does_not_resolve_a_later_one",
        (
            "Effects.resolve.work",
            "(effect.attempt != attempt or effect.state not in _can_resolve(applied))",
            "(effect.state not in _can_resolve(applied))",
        ),
    ),
    guard(
        "resolve: the attempt it speaks of says nothing more",
        f"{_EFFECTS}::TestResolve::test_an_attempt_that_gave_up_cannot_record_an_outcome_after_a_person_has",
        (
            "Effects.resolve.work",
            "                claim_token=None,\n",
            "",
        ),
        (
            "EFFECT_TRANSITIONS",
            "    (_ES.CLAIMED, _EE.RELEASE): _ES.PLANNED,\n",
            "    (_ES.CLAIMED, _EE.RELEASE): _ES.PLANNED,\n    (_ES.PLANNED, _EE.LOSE): _ES.UNKNOWN,\n",
        ),
    ),
    guard(
        "roll back: begun twice, planned once",
        f"{_GUARDS}::TestRollBack::test_a_roll_back_that_is_begun_twice_plans_each_undo_once",
        (
            "RollBacks.start.work",
            "if job.state in _STARTED:",
            "if False:",
        ),
    ),
    guard(
        "roll back: one undo an effect",
        f"{_GUARDS}::TestRollBack::test_no_effect_can_have_two_undos",
        ("schema.sql", "undoes bigint UNIQUE REFERENCES", "undoes bigint REFERENCES"),
    ),
    guard(
        "roll back: an applied undo is not sent again",
        f"{_GUARDS}::TestRollBack::test_an_undo_that_is_applied_is_not_sent_again",
        ("_nothing_to_send", "if effect is not None and effect.state is EffectState.APPLIED:", "if False:"),
    ),
    guard(
        "roll back: not while an effect is under way",
        f"{_GUARDS}::TestRollBack::test_a_roll_back_does_not_begin_while_an_effect_is_under_way",
        (
            "cannot_roll_back",
            "if under_way := [effect for effect in effects if effect.state in _IN_FLIGHT]:",
            "if under_way := []:",
        ),
    ),
    guard(
        "roll back: from then on nothing is applied",
        f"{_GUARDS}::TestRollBack::test_after_a_roll_back_began_no_effect_of_the_job_is_applied",
        ("Effects.claim.work", "            if own:\n                _check_rolled_back(job)\n", ""),
    ),
    guard(
        "roll back: a probe does not take the write for its undo",
        f"{_APPLYING}/test_roll_back.py::TestLost::test_the_probe_of_an_undo_can_search_for_the_undo_by_its_own_key",
        ("HttpTarget", "UNDO_KEY if self.undoes else EFFECT_KEY", "EFFECT_KEY"),
    ),
    guard(
        "undo: only the approved one is sent",
        f"{_ALTERED}::TestBeforeItStarts::test_another_undo_than_the_approved_one_is_refused",
        ("_altered", "if sealed.get(effect.name) != expected:", "if False:"),
    ),
    guard(
        "undo: the approval names the job",
        f"{_ALTERED}::TestTheKey::test_the_seal_of_another_job_seals_nothing_here",
        ("_seal", "[job_id, revision, name, plan_digest, undo]", "[plan_digest, undo]"),
    ),
    guard(
        "undo: it is filled with what the history says",
        f"{_ALTERED}::TestBeforeItStarts::test_what_fills_an_undo_must_be_what_the_history_says",
        ("_altered", "if fact != known:", "if False:"),
    ),
    guard(
        "undo: a history that was altered approves none",
        f"{_ALTERED}::TestBeforeItStarts::test_nothing_is_undone_by_a_history_that_was_altered",
        ("altered_undos", "if broken is not None:", "if False:"),
    ),
    guard(
        "undo: only the planned one, once it has started",
        f"{_ALTERED}::TestOnceItHasStarted::test_another_undo_than_the_planned_one_is_refused",
        ("_altered_since", "if undo.as_plan == undo_plan(effect, before)", "if True"),
    ),
    guard(
        "undo: only a worker calls functions",
        f"{_APPLYING}/test_roll_back.py::TestReturnedForAPage::test_a_function_is_never_called_from_a_page_or_a_command",
        ("_check_targets", "if not in_worker and (", "if False and ("),
    ),
    guard(
        "undo: the mark is read before the import",
        f"{_MARKS}::test_of_a_module_without_the_mark_on_the_function_no_code_runs",
        ("check_marked", "if not _marks(source, name):", "if False:"),
    ),
    guard(
        "undo: the function has the mark",
        f"{_MARKS}::test_a_mark_that_is_only_a_name_in_the_source_is_not_enough",
        ("function_at", "if not _is_marked(found):", "if False:"),
    ),
    guard(
        "endpoint: a value changes no path and no query",
        "tests/unit/operators/test_endpoint_values.py::"
        "test_a_value_that_would_change_the_structure_of_the_url_is_refused",
        ("_problem", "            if found:", "            if False:"),
    ),
    guard(
        "endpoint: a path is read as the last server reads it",
        "tests/integration/targets/test_http.py::TestPlan::"
        "test_a_path_that_leads_to_another_place_than_it_says_is_refused",
        ("has_dot_step", "decoded = fully_decoded(path)", "decoded = path"),
        ("has_dot_step", "decoded != unquote(decoded) or ", ""),
    ),
    guard(
        "inbox: only who may act on every job settles webhooks",
        "tests/integration/web/test_inbox_page.py::test_only_who_may_act_on_every_job_settles_webhooks",
        ("may_settle_webhooks", "len(viewer.answerable(dag_ids)) == len(dag_ids)", "bool(viewer.answerable(dag_ids))"),
    ),
    guard(
        "teams: a right is asked for the team of the Dag",
        f"{_TEAMS}::test_users_see_and_decide_on_the_jobs_of_their_team_and_of_dags_without_one",
        (
            "auth:_details",
            "DagDetails(id=dag_id, team_name=team) if team else DagDetails(id=dag_id)",
            "DagDetails(id=dag_id)",
        ),
    ),
    guard(
        "teams: the jobs of a deleted Dag need the right for every team",
        f"{_TEAMS}::test_the_jobs_of_a_dag_that_airflow_no_longer_has_need_the_right_for_every_team",
        ("auth:_teams", "if unknown := set(teamless) - known:", "if unknown := set[str]():"),
    ),
    guard(
        "doctor: its page is for who may edit connections",
        "tests/integration/web/test_doctor_page.py::test_who_may_not_edit_connections_is_refused_and_sees_no_link",
        ("doctor_page:doctor", "    check_may_run_doctor(viewer)\n", ""),
    ),
    guard(
        "doctor: a check that hangs is not started again",
        "tests/integration/doctor/test_bounded.py"
        "::test_a_check_that_hangs_is_not_started_again_and_its_result_is_not_lost",
        ("bounded:_start", "if check.subject in _running:", "if False:"),
    ),
    guard(
        "links: an id leads out of no path",
        "tests/unit/core/test_external_link.py::test_an_id_that_leads_elsewhere_has_no_link",
        ("external_link:external_link", " and _leads_to_host_of(template, link)", ""),
    ),
    guard(
        "links: an address of the ledger is checked again",
        "tests/unit/core/test_external_link.py::test_an_address_that_is_not_one_is_refused_with_what_to_write",
        ("external_link:external_link", " or _wrong_with(template)", ""),
    ),
    guard(
        "receiver: connections that send nothing make room",
        "tests/integration/test_webhooks_serve.py::test_connections_that_send_no_whole_request_keep_no_delivery_out",
        ("BoundedProtocol.connection_made", "if len(self.connections) >= MAX_CONNECTIONS:", "if False:"),
    ),
    guard(
        "hash chain: each line has its hash",
        f"{_LEDGER}/database/test_history.py::TestTampering::test_a_change_in_any_column_is_found_at_its_line",
        ("first_break", " or line.hash != event_hash(line):", ":"),
    ),
    guard(
        "hash chain: each line leads to the next",
        f"{_GUARDS}::test_a_line_that_was_rewritten_with_its_hash_no_longer_leads_to_the_next_one",
        ("first_break", " or line.previous_hash != previous or", " or"),
    ),
    guard(
        "hash chain: the facts of an old line are those of its text",
        f"{_LEDGER}/database/test_history.py::TestTampering::test_a_change_in_any_column_is_found_at_its_line",
        ("_names_its_actor", "return line.by.is_whole and str(line.by) == line.actor", "return True"),
    ),
    guard(
        "hash chain: an old line has the facts of its kind alone",
        f"{_LEDGER}/database/test_history.py::TestTampering::test_a_change_in_any_column_is_found_at_its_line",
        ("_names_its_actor", "return line.by.is_whole and str", "return str"),
    ),
    guard(
        "hash chain: it covers the facts of a new line",
        f"{_LEDGER}/database/test_history.py::TestTampering::test_facts_with_a_text_to_match_are_covered_too",
        ("event_hash", "_SINCE_VERSION_2 if line.hash_version == 1 else set()", "_SINCE_VERSION_2"),
    ),
    guard(
        "hash chain: the job names its newest line",
        f"{_LEDGER}/database/test_history.py::TestTampering::test_the_last_lines_cannot_be_removed_unnoticed",
        ("first_break", "if job is not None and (job.event_seq", "if job is None and (job.event_seq"),
    ),
    guard(
        "history: append-only",
        f"{_LEDGER}/database/test_history.py::TestAppendOnly::test_a_line_cannot_be_changed_or_removed",
        ("schema.sql", "    RAISE EXCEPTION 'aihandoff.events is append-only';", "    RETURN NEW;"),
    ),
    guard(
        "budget: nothing is reserved beyond the room of a stripe",
        f"{_BUDGETS}/test_reserve.py::TestWithoutRoom::test_a_job_is_held_with_the_numbers_and_goes_on_when_there_is_room",
        ("reservation_store:_TAKE", "allotted_usd - reserved_usd - settled_usd >= %(need)s AND", "true AND"),
        ("schema.sql", "CHECK (reserved_usd + settled_usd <= allotted_usd)", "CHECK (true)"),
    ),
    guard(
        "budget: nothing is reserved beyond the room of a stripe, whatever dies",
        "tests/integration/crashes/test_budget.py"
        "::test_processes_that_die_everywhere_are_billed_no_more_than_the_budget_and_lose_none_of_it",
        ("reservation_store:_TAKE", "allotted_usd - reserved_usd - settled_usd >= %(need)s AND", "true AND"),
        ("schema.sql", "CHECK (reserved_usd + settled_usd <= allotted_usd)", "CHECK (true)"),
    ),
    guard(
        "budget: nothing is sent where all the room together is too little",
        f"{_BUDGETS}/test_reserve.py::TestWithoutRoom::test_a_job_is_held_with_the_numbers_and_goes_on_when_there_is_room",
        ("core.budgets.reserve:_full", 'if left - ahead["need"] >= need:', "if True:"),
    ),
    guard(
        "budget: who came first goes first",
        f"{_BUDGETS}/test_reserve.py::TestWithoutRoom::test_who_came_first_goes_first",
        ("core.budgets.reserve:_full", 'if left - ahead["need"] >= need:', "if left >= need:"),
    ),
    guard(
        "budget: who no longer asks holds up no one",
        f"{_BUDGETS}/test_reserve.py::TestWithoutRoom::test_who_no_longer_asks_holds_up_no_one",
        ("_AHEAD", "AND submit_lease_until > %(at)s - %(patience)s::interval", ""),
    ),
    guard(
        "budget: one for whom a person waits goes first",
        f"{_BUDGETS}/test_reserve.py::TestWithoutRoom::test_one_for_whom_a_person_waits_goes_first",
        ("_AHEAD", "SELECT priority = 'batch' FROM", "SELECT true FROM"),
    ),
    guard(
        "budget: room wakes those behind one that no longer asks",
        f"{_BUDGETS}/test_reserve.py::TestWithoutRoom::test_room_wakes_those_behind_one_that_no_longer_asks",
        (
            "reservation_store:_ASK_NOW",
            "AND submit_lease_until > clock_timestamp() - %(patience)s::interval",
            "",
        ),
    ),
    guard(
        "budget: each sweep uses the room that there is",
        f"{_BUDGETS}/test_reserve.py::TestWithoutRoom::test_a_sweep_of_a_triggerer_wakes_those_behind_one_that_has_left",
        ("use_budgets", 'await connection.execute(ASK_NOW_OF_ALL, {"patience": PATIENCE})', "pass"),
    ),
    guard(
        "budget: all that are about a request, or none",
        f"{_BUDGETS}/test_reserve.py::TestAReservation::test_is_made_in_no_budget_where_one_has_no_room",
        ("core.budgets.reserve:_reserve", 'connection.execute("ROLLBACK TO SAVEPOINT budgets")', "pass"),
    ),
    guard(
        "budget: the end of a response is counted",
        f"{_BUDGETS}/test_reserve.py::TestAReservation::test_is_made_with_the_permission_and_becomes_the_cost",
        ("write_output", "    settle_cost(connection, stored, output)\n", ""),
    ),
    guard(
        "budget: a refused request gives back what it reserved",
        f"{_BUDGETS}/test_reserve.py::TestAReservation::test_comes_back_where_the_request_was_refused",
        ("Submission.not_submitted.work", "reservation_store.release(connection, job_id, number, token)", "pass"),
    ),
    guard(
        "budget: a refused request gives back what it reserved itself",
        f"{_BUDGETS}/test_reserve.py::TestAReservation::test_of_a_lost_request_stays_where_the_second_one_is_refused",
        ("reserve:_reserve", "Request(token,", "Request(revision.submit_token or token,"),
    ),
    guard(
        "budget: a late answer settles its own reservation",
        f"{_BUDGETS}/test_reserve.py::TestAReservation::test_is_that_of_the_request_whose_answer_came_late",
        ("Submission.submitted.work", "found=found, token=token)", "found=found)"),
    ),
    guard(
        "budget: a surplus response costs too",
        f"{_BUDGETS}/test_reserve.py::TestAReservation::test_of_a_surplus_response_is_settled_with_what_it_cost",
        (
            "SurplusResponses.settle.work",
            'reservation_store.settle(connection, *named, cost_usd, usage=detail.get("usage"))',
            "pass",
        ),
    ),
    guard(
        "budget: a price that is not known is never 0",
        f"{_BUDGETS}/test_reserve.py::TestAPriceThatIsNotKnown"
        "::test_of_a_response_counts_as_what_was_reserved_until_it_is_known",
        (
            "core.budgets.reservation_store:_end",
            "found.amount_usd if cost_usd is None else",
            "_NOTHING if cost_usd is None else",
        ),
    ),
    guard(
        "budget: calls of tools that are in no price count as what was reserved",
        f"{_BUDGETS}/test_reserve.py::TestAPriceThatIsNotKnown"
        "::test_of_a_tool_is_never_0_so_that_at_least_what_was_reserved_counts",
        ("core.budgets.reservation_store:settle", 'is_part = bool((usage or {}).get("tool_calls"))', "is_part = False"),
    ),
    guard(
        "budget: a tool without a price is never free",
        "tests/unit/core/generation/openai/test_worst_case.py::test_a_tool_whose_price_is_not_known_is_never_free",
        ("core.generation.openai.tools:ToolPrices.dearest", "if self.of(kind) is None:", "if False:"),
    ),
    guard(
        "budget: what was spent beyond the amount is made up for first",
        f"{_BUDGETS}/test_reserve.py::TestMoreThanWasReserved"
        "::test_goes_beyond_where_there_is_none_and_is_made_up_for_from_the_next_room",
        ("core.budgets.reservation_store:_end", 'if ended["beyond"]:', "if False:"),
    ),
    guard(
        "budget: what makes up for it waits for no one",
        f"{_BUDGETS}/test_reserve.py::TestMoreThanWasReserved::test_waits_for_no_one_where_it_is_made_up_for",
        ("reservation_store:_LOCK_FREE_STRIPES", " SKIP LOCKED", ""),
    ),
    guard(
        "budget: the bound of a job counts a lost request",
        f"{_BUDGETS}/test_reserve.py::TestTheBoundOfAJob::test_counts_a_lost_request_as_its_worst_case",
        ("_SPENT_BY_JOB", "+ unknown_submissions * coalesce(worst_cost_usd, 0)", ""),
    ),
    guard(
        "one bill: one permission to send at a time",
        f"{_LEDGER}/generation/test_submission_store.py::TestIntent::test_while_a_permission_is_valid_no_one_else_gets_one",
        (
            "Submission.intend.work",
            "if not revision.is_held and (left := _lease_left(revision, at)) > 0:",
            "if False:",
        ),
    ),
    guard(
        "one bill: at most one unknown submission is sent over",
        f"{_LEDGER}/generation/test_submission_store.py::TestIntent"
        "::test_at_most_one_unknown_submission_is_sent_over_and_the_second_fails_the_job",
        (
            "Submission.intend.work",
            "if revision.is_lost and revision.unknown_submissions > MAX_UNKNOWN_SUBMISSIONS:",
            "if False:",
        ),
    ),
    guard(
        "one bill: after a lost request no other one is sent for a while",
        f"{_LEDGER}/generation/test_submit.py::TestOrphan"
        "::test_an_orphan_is_found_by_its_webhook_and_there_is_one_response_and_one_bill",
        ("lost_store:count_lost", "actor=actor, reason=reason, wait=wait)", "actor=actor, reason=reason)"),
    ),
    guard(
        "one bill: a conversation that has the output of a lost request is not asked for another",
        f"{_LEDGER}/generation/test_submit.py::TestHandle"
        "::test_a_lost_request_whose_response_has_ended_is_not_sent_again",
        ("submit:_send", "if lost and (ended := _ended(provider, str(handle))):", "if False:"),
    ),
    guard(
        "one bill: a response that ends between the question and the request is noticed",
        f"{_LEDGER}/generation/test_submit.py::TestHandle"
        "::test_a_response_that_ends_between_the_question_and_the_request_is_taken_and_the_other_one_is_cancelled",
        ("submit:_send", "if lost and not sent.ended and isinstance(", "if False and isinstance("),
    ),
    guard(
        "one bill: a process that was suspended does not send",
        f"{_LEDGER}/generation/test_submit.py::TestUnknown"
        "::test_a_process_that_was_suspended_before_sending_does_not_send_on_an_old_permission",
        ("submit:_send", "if time.monotonic() - asked >= _SEND_WITHIN:", "if False:"),
    ),
    guard(
        "one bill: the first response to end is taken",
        f"{_LEDGER}/generation/test_submit.py::TestOrphan"
        "::test_the_first_response_to_end_is_taken_and_the_other_is_cancelled_and_counted",
        ("inbox:_adopt", "if _comes_first(job, revision, output):", "if False:"),
    ),
    guard(
        "one bill: what a replaced response left is not stored",
        f"{_LEDGER}/generation/test_submission_store.py::TestStore"
        "::test_what_a_response_left_that_was_replaced_is_not_stored",
        ("Outputs.store.work", "if response_id is not None and revision.response_id != response_id:", "if False:"),
    ),
    guard(
        "one bill: a response that came too late is kept to be cancelled",
        f"{_LEDGER}/reconcile/test_responses.py::TestSurplus"
        "::test_a_response_that_came_after_its_revision_was_given_up_is_cancelled_where_its_worker_died",
        ("Submission.submitted.work", "keep_surplus(connection, revision, response_id, token=token)", "pass"),
    ),
    guard(
        "one bill: a person answers about the loss that they saw",
        f"{_LEDGER}/generation/test_submit.py::TestAsked::test_an_answer_to_an_earlier_loss_is_refused",
        ("Submission.resolve.work", " or revision.unknown_submissions != seen", ""),
    ),
    guard(
        "one bill: an output is stored once",
        f"{_LEDGER}/generation/test_submission_store.py::TestStore::test_an_output_is_stored_once",
        (
            "Outputs.store_within",
            "if revision.completed_at is not None and not _brings_cost(revision, output):",
            "if False:",
        ),
    ),
    guard(
        "strangers: no body is read before the login",
        f"{_STRANGERS}::test_little_of_what_a_stranger_sends_is_read",
        ("GuardedRoute.get_route_handler.guarded", "            await verify_login(request)\n", ""),
    ),
    guard(
        "strangers: a form of another site is not shown back",
        f"{_STRANGERS}::test_a_form_of_another_site_is_not_shown_back",
        ("GuardedRoute.get_route_handler.guarded", "            check(request)\n", ""),
    ),
    guard(
        "strangers: little of a form without a login is kept",
        f"{_STRANGERS}::test_little_of_what_a_stranger_sends_is_read",
        ("handle", "read_form(request, MAX_KEPT, _KEEP_TIMEOUT)", "read_form(request, 2**40, _KEEP_TIMEOUT)"),
    ),
    guard(
        "strangers: few forms without a login are kept at once",
        f"{_STRANGERS}::test_few_forms_of_strangers_are_kept_at_the_same_time",
        ("handle", " and _KEEPING.acquire(blocking=False):", ":\n        _KEEPING.acquire(blocking=False)"),
    ),
    guard(
        "strangers: no answer is rendered in the event loop",
        f"{_STRANGERS}::test_no_page_is_rendered_and_no_body_parsed_in_the_event_loop",
        (
            "Shield.__call__",
            "await run_in_threadpool(self._respond, Request(scope), error)",
            "self._respond(Request(scope), error)",
        ),
    ),
    guard(
        "page budget: what a page leaves out is said before the decision",
        f"{_BUDGET}::test_what_a_page_has_no_room_for_is_named_before_the_decision_and_found_as_text",
        ("Budget.text", "        self.left_characters += left\n", ""),
    ),
    guard(
        "page budget: no job that is not shown in full is selected",
        f"{_BUDGET}::test_a_bulk_review_selects_no_job_that_it_does_not_show_in_full",
        ("_cut_row", "whole=not budget.left_out", "whole=True"),
    ),
    guard(
        "page budget: Markdown of all texts together",
        f"{_BUDGET}::test_the_markdown_of_all_revisions_has_one_budget",
        ("Budget.allows_markdown", "        self.markdown -= len(text)\n", ""),
    ),
    guard(
        "page budget: a form has so many inputs",
        f"{_BUDGET}::test_a_form_with_too_many_rows_is_refused_and_shown_back",
        ("_take_input", "if budget.parts < 0:", "if False:"),
    ),
    guard(
        "terminal: a message holds no escape sequence",
        "tests/unit/cli/test_common.py::test_a_message_is_one_line",
        ("say", "print(escape(line),", "print(line,"),
    ),
    guard(
        "terminal: Rich obeys no markup of the ledger",
        "tests/unit/cli/test_common.py::test_what_the_ledger_holds_is_printed_as_text",
        ("print_rows", "AirflowConsole(markup=False, emoji=False, highlight=False)", "AirflowConsole()"),
    ),
    guard(
        "bulk: only what was shown is done",
        f"{_BULK}::test_what_was_not_shown_like_this_is_not_done",
        ("bulk_run:begin", "if count != shown.count or digest != shown.digest or not shown.count:", "if False:"),
    ),
    guard(
        "bulk: rights are asked when a step is taken",
        f"{_BULK}::test_rights_are_checked_for_each_job_when_it_is_shown_and_when_it_is_taken",
        ("bulk_run:_take", "if not answerable([dag_id]):", "if False:"),
    ),
    guard(
        "bulk: rights are asked when it is shown",
        f"{_BULK}::test_rights_are_checked_for_each_job_when_it_is_shown_and_when_it_is_taken",
        ("plan_step", "if not may_act:", "if False:"),
    ),
    guard(
        "bulk: no roll-back of what was applied since",
        f"{_BULK}::TestRollBack::test_what_was_applied_since_it_was_shown_is_not_undone",
        ("bulk_run:_roll_back", "if can_start(job) and applied != seen:", "if False:"),
    ),
    guard(
        "bulk: a filter is needed",
        f"{_BULK}::test_a_filter_is_needed_and_finds_no_more_than_a_bound",
        ("bulk_run:preview", "if wanted.is_empty:", "if False:"),
    ),
    guard(
        "bulk: what is left is taken by the next run",
        f"{_BULK}::test_two_hundred_jobs_are_cancelled_each_once_though_the_first_run_is_killed",
        ("bulk_store:_NEXT", "(outcome IS NULL OR outcome = 'unfinished')", "outcome = 'unfinished'"),
    ),
    guard(
        "bulk: no one sees the action of another user",
        "tests/integration/web/test_bulk_action.py::test_no_one_sees_or_continues_the_action_of_another_user",
        ("own_bulk", "if bulk.actor != viewer.actor:", "if False:"),
    ),
    guard(
        "bulk: other people than were shown are not confirmed",
        f"{_BULK}::TestReassign::test_other_people_than_were_shown_are_not_confirmed",
        ("digest_of", "None if reviewers is None else reviewers.to_json()", "None"),
    ),
    guard(
        "reassign: no one gives themselves a right",
        f"{_REASSIGN}::test_no_one_votes_by_a_right_that_they_have_given_themselves",
        (
            "rules:why_not",
            "if has_reassigned(job, person) and not _admits(author_rules(job), job, person):",
            "if False:",
        ),
    ),
    guard(
        "reassign: not by the requester",
        "tests/unit/core/review/test_reassignment.py::TestRefused"
        "::test_by_the_requester_who_would_choose_who_approves_their_work",
        ("cannot_reassign", "if has_asked(job, _person(by)):", "if False:"),
    ),
    guard(
        "reassign: not to fewer people than must approve",
        "tests/unit/core/review/test_reassignment.py::TestRefused::test_to_fewer_people_than_must_approve",
        ("cannot_reassign", "if len(able) >= author.approvals:", "if True:"),
    ),
    guard(
        "reassign: votes of people who may no longer decide are void",
        f"{_REASSIGN}::test_the_votes_that_still_count_stay_and_the_others_are_void",
        ("reassign_store:_reassign", "    connection.execute(_VOID, [now, [vote.decision_id for vote in void]])\n", ""),
    ),
    guard(
        "reassign: a vote that was void does not come back",
        f"{_REASSIGN}::test_whose_vote_was_void_votes_again_where_the_review_comes_back_to_them",
        ("OF_NOW", "AND d.voided_at IS NULL", ""),
        ("approvals_of", "if of_now and each.voided_at is None and", "if of_now and"),
    ),
    guard(
        "reassign: not over one that was not seen",
        f"{_REASSIGN}::test_the_same_again_changes_nothing",
        (
            "Reassignments._why_not",
            "if seen not in (None, Reassignment.from_json(job.reassigned).number):",
            "if False:",
        ),
    ),
    guard(
        "list of jobs: only of Dags that the user may see",
        "tests/integration/web/test_job_search.py::test_no_one_finds_a_job_that_they_may_not_see",
        ("job_search_store:_asked", "if dag_ids is not None:", "if False:"),
    ),
    guard(
        "review: blind readers do not see how others have voted",
        "tests/integration/web/test_who.py"
        "::test_who_has_not_voted_does_not_see_how_others_have_where_the_author_wants_blind_readers",
        ("blind:is_kept_from", "rules_of(job).is_blind and not has_voted(person, voters)", "False"),
    ),
    guard(
        "review: an approval is bound to whether its readers were blind",
        "tests/integration/web/test_who.py::test_an_approval_is_bound_to_whether_its_readers_were_blind",
        ("ReviewRules.bound", '**({"blind": True} if self.blind else {}),', ""),
    ),
    guard(
        "list of jobs: a spreadsheet runs no formula of a file",
        "tests/integration/web/test_job_search.py::test_a_spreadsheet_runs_nothing_of_a_file",
        ("csv_text:_cell", "text.startswith(_FORMULA)", "False"),
    ),
    guard(
        "list of jobs: pages go on after the last job",
        f"{_LEDGER}/jobs/test_job_search.py::test_pages_leave_out_no_job_and_repeat_none",
        ("JobSearch.page.work", "conditions.append(order.after)", "pass"),
    ),
    guard(
        "overview: connections only for users who may see jobs",
        "tests/integration/web/test_overview.py::test_no_one_sees_figures_of_jobs_that_they_may_not_see",
        ("needs_of", "dag_ids is not None and not dag_ids", "False"),
    ),
    guard(
        "acknowledge: only a failure that its person has seen",
        f"{_LEDGER}/jobs/test_acknowledge.py::test_a_failure_that_was_not_seen_is_not_acknowledged",
        ("cannot_acknowledge", "job.revision != revision", "False"),
    ),
    guard(
        "acknowledge: a job that fails again needs a person again",
        f"{_LEDGER}/jobs/test_acknowledge.py::test_it_comes_back_when_it_fails_again",
        ("_acknowledged_at", "job.acknowledged_at if state is job.state else None", "job.acknowledged_at"),
    ),
    guard(
        "acknowledge: the reason for which the job failed stays",
        f"{_LEDGER}/jobs/test_acknowledge.py::test_it_leaves_what_needs_a_person_and_stays_failed",
        ("_moved", "keep_reason or (reason is None and state is job.state)", "reason is None and state is job.state"),
    ),
    guard(
        "traces: no content unless it was switched on",
        "tests/integration/operators/test_traces.py::"
        "test_model_review_and_effect_are_linked_by_the_job_and_have_no_content",
        ("responding:_content", 'not settings.flag("trace_content")', "False"),
    ),
    guard(
        "traces: content is masked",
        "tests/integration/operators/test_traces.py::"
        "test_content_is_in_the_span_of_the_model_where_it_is_switched_on_and_is_masked",
        ("_Bounded._cut", "self._clean(text)", "text"),
    ),
    guard(
        "sets: a key occurs once",
        f"{_SETS}::test_what_cannot_be_a_set_is_said_before_anything_is_paid",
        ("OpenAIResponseSetOperator._check", "if first == number:", "if True:"),
    ),
    guard(
        "sets: no more are in flight than its author allows",
        f"{_SETS}::test_no_more_are_in_flight_than_its_author_allows",
        ("OpenAIResponseSetOperator._has_room", "leg.in_flight >= self.max_in_flight", "False"),
    ),
    guard(
        "sets: an item that is refused holds up no other",
        f"{_SET_STORE}::test_those_that_exist_are_attached_to_and_one_that_is_refused_holds_up_no_other",
        ("Submission.open_many.work", "done[key] = refused", "raise"),
    ),
    guard(
        "sets: that a response has ended is recorded once",
        f"{_SET_STORE}::test_that_responses_have_ended_is_recorded_together_and_once",
        ("set_store:_MARK_ENDED", "AND (r.response_status IS NULL OR NOT r.response_status = ANY(%(ended)s))", ""),
    ),
    guard(
        "batches: an attempt that lost its batch gets no permission to create it",
        f"{_BATCHES}::TestAnAttemptThatDied::test_gets_no_permission_to_create_it_any_longer",
        (
            "batch_store:_locked",
            "found.token is None or found.token != batch.token or found.state is not state",
            "False",
        ),
    ),
    guard(
        "batches: nothing is given up while its attempt may be creating it",
        f"{_BATCHES}::TestAnAttemptThatDied::test_while_it_created_a_batch_is_not_disturbed_within_its_time",
        ("recover", "if not batch.is_left(now):", "if False:"),
    ),
    guard(
        "batches: no request is free before no batch can be made of its file",
        f"{_BATCHES}::TestAnAttemptThatDied::test_and_had_not_created_it_frees_the_requests_once_no_batch_can_be_made",
        ("recover", "api.delete_file(batch.file_id)", "pass"),
    ),
    guard(
        "batches: one that may be among the older ones is not taken for lost",
        "tests/unit/core/generation/openai/test_batches_api.py::test_where_too_many_are_newer_it_is_not_taken_for_lost",
        (
            "BatchesApi.find",
            "if number >= SEARCHED:\n                    break",
            "if number >= SEARCHED:\n                    return None",
        ),
    ),
    guard(
        "batches: one that was created late is searched for again",
        f"{_BATCHES}::TestAnAttemptThatDied::test_and_had_created_it_finds_it_by_its_metadata",
        (
            "recover",
            "        found = api.find(metadata, since=batch.created_at)\n    reached",
            "        pass\n    reached",
        ),
    ),
    guard(
        "batches: a request is in one batch alone",
        f"{_BATCHES}::test_a_request_that_is_in_a_batch_goes_into_no_other",
        ("_admit_line", " and revision.batch_id is None", ""),
        ("_admit_line", "revision.state is RevisionState.QUEUED", "True"),
        ("_admit_line", "if not free or not _is_current(job, revision, JobState.QUEUED):", "if not free:"),
    ),
    guard(
        "batches: a result is taken by the batch that its request is in",
        f"{_BATCHES}::TestAnAttemptThatDied::test_and_comes_back_too_late_has_its_batch_stopped_and_its_cost_recorded",
        ("Batches.take.work", "if revision.batch_id != batch.batch_id:", "if False:"),
    ),
    guard(
        "batches: the name of a line is that of its batch",
        f"{_BATCHES}::test_a_result_of_others_is_left_alone",
        ("batch_read:_results", "named[2] != batch.batch_id", "False"),
    ),
    guard(
        "batches: the reconciler leaves outputs to the task",
        f"{_BATCHES}::TestATaskThatHasEnded::test_leaves_a_batch_that_the_reconciler_stops",
        ("Batches.take.work", "if late_only and revision.state in _OPEN_STATES:", "if False:"),
    ),
    guard(
        "batches: what is in a batch is no response to ask about",
        f"{_BATCHES}::TestAJobInABatch::test_is_not_in_flight_for_anything_that_asks_about_responses",
        ("set_store:_WAITING", " AND r.batch_id IS NULL", ""),
    ),
    guard(
        "sets: a review of another run is not cancelled",
        "tests/integration/core/sets/test_stop_set.py::"
        "test_where_the_approval_was_marked_failed_the_reviews_are_cancelled",
        ("cancel_reviews", "run=(owner.dag_id, owner.run_id)", "run=(job.dag_id, job.run_id)"),
    ),
    guard(
        "sets: a process that is paused after a bulk statement keeps no lock",
        f"{_LEDGER}/database/test_history.py::"
        "test_a_process_that_is_paused_after_a_statement_about_many_jobs_keeps_no_locks",
        (
            "insert_plans",
            "connection.execute(_INSERT_EFFECTS, {name: [row[name] for row in rows] for name in _OF_A_PLAN})",
            "connection.cursor().executemany(_INSERT_EFFECT, rows)",
        ),
    ),
    guard(
        "sets: what a pause, a budget or a limit is about asks for its permission alone",
        f"{_SHARED}::test_what_something_may_hold_is_left_to_the_step_of_a_single_job",
        ("together:_permit", "if is_weighed:", "if False:"),
    ),
    guard(
        "sets: a permission that was given is found by its job, without reading through all revisions",
        f"{_LEDGER}/database/test_indexes.py::test_of_the_jobs_of_a_set",
        (
            "together:_PERMITTED",
            "ON r.job_id = given.job_id AND r.number = given.number\n    WHERE r.submit_token = given.token",
            "ON r.submit_token = given.token",
        ),
    ),
    guard(
        "sets: a request that was sent gets no permission together with others",
        f"{_SHARED}::test_each_request_of_a_group_is_permitted_once",
        (
            "together:_FIRST",
            "r.state = 'queued' AND r.submissions = 0 AND r.unknown_submissions = 0 AND r.submit_token IS NULL\n"
            "        AND r.submit_lease_until IS NULL AND ",
            "",
        ),
    ),
    guard(
        "sets: a lost request is waited for no longer than what is known by now says",
        f"{_LEDGER}/generation/test_submit.py"
        "::TestHowLong::test_where_more_is_known_by_now_it_waits_less_unless_its_author_chose_to_wait",
        ("Submission.intend.work", "revision = wait_less(connection, job, revision, orphan_wait)", "pass"),
    ),
    guard(
        "sets: the answer to a permission that was lost is not recorded together with others",
        f"{_SHARED}::test_an_answer_without_its_permission_is_left_to_the_step_of_a_single_job",
        ("together:_MARK_RUNNING", "AND r.submit_token = given.token ", ""),
    ),
    guard(
        "sets: no more requests have a permission than are sent at once",
        f"{_SHARED}::test_no_more_requests_have_a_permission_than_are_sent_at_once",
        (
            "SharedSteps._begin",
            "self._ended.wait_for(lambda: len(self._sending) + len(new) <= max(self._most, len(new)))",
            "pass",
        ),
    ),
    guard(
        "sets: a webhook that came before its id was known is applied",
        f"{_SHARED}::test_a_webhook_that_came_first_is_applied_when_the_id_is_stored",
        ("together:_record", "and answer.response_id not in more", ""),
    ),
    guard(
        "sets: an output is stored once, and for the response that left it",
        f"{_SHARED}::test_outputs_are_stored_together_and_once",
        (
            "together:_RUNNING",
            "r.state = 'running' AND r.response_id = given.known_as AND r.completed_at IS NULL AND",
            "",
        ),
    ),
    guard(
        "sets: a job that was edited, or planned before, is not asked about together with others",
        f"{_LEDGER}/review/test_ask_first.py::"
        "test_one_that_was_asked_about_edited_or_moved_on_is_left_and_holds_up_no_other",
        ("_is_new", "and job.review_digest is None\n        and job.review_deadline is None\n", ""),
        (
            "ask_first:_NEW",
            "AND r.based_on IS NULL\n        AND NOT EXISTS (SELECT FROM aihandoff.effects AS e WHERE "
            "e.job_id = r.job_id)",
            "",
        ),
    ),
    guard(
        "sets: a plan is stored for the revision that it was rendered for",
        f"{_LEDGER}/review/test_ask_first.py::test_a_plan_of_another_revision_is_not_stored",
        ("_is_new", "and job.revision == ask.revision", ""),
    ),
    guard(
        "sets: what is reserved for a request is settled with its output",
        f"{_SHARED}::test_what_a_budget_has_reserved_is_settled",
        (
            "together:_RUNNING",
            "SELECT FROM aihandoff.budget_reservations AS b WHERE b.job_id = r.job_id",
            "SELECT WHERE false",
        ),
    ),
    guard(
        "sets: a retry does not move the deadline",
        f"{_SET_STORE}::test_a_set_is_found_by_its_key_and_a_retry_does_not_move_its_deadline",
        ("set_store:_OPEN", "AND sets.run_id = excluded.run_id THEN sets.deadline", "AND false THEN sets.deadline"),
    ),
    guard(
        "front door: a key with another content is refused",
        f"{_REQUESTS}::test_a_key_with_another_content_is_refused_and_changes_nothing",
        ("request_store:_same", "len(found) > 1 or not found[0].is_same(wanted)", "len(found) > 1"),
    ),
    guard(
        "front door: requests at the same time count together",
        f"{_REQUESTS}::test_the_limit_holds_for_requests_at_the_same_time",
        ("JobRequests.record", "connection.execute(_LOCK_COUNT, [recorded_by, wanted.job_type])", "pass"),
    ),
    guard(
        "front door: requests of one requester at the same time count together",
        f"{_REQUESTS}::test_the_limit_of_a_requester_holds_for_requests_at_the_same_time",
        ("JobRequests.record", "connection.execute(_LOCK_REQUESTER, [wanted.requested_by])", "pass"),
    ),
    guard(
        "front door: a requester has a limit over all types",
        f"{_REQUESTS}::test_a_requester_can_make_so_many_in_a_minute_of_all_types_by_any_login",
        ("JobRequests.record", 'counted["in_all"] >= requests_per_minute', "False"),
    ),
    guard(
        "strangers: a body that says that it is too large is refused before the login is asked for",
        f"{_STRANGERS}::test_what_says_that_it_is_too_large_is_refused_before_the_login_is_asked_for",
        ("GuardedRoute.get_route_handler", "check_length(request, self.max_body)", "pass"),
    ),
    guard(
        "client: a request without a key is not sent",
        "tests/unit/client/test_api_client.py::test_a_request_without_a_key_is_not_sent",
        ("Client.submit", "if key is None and idempotency_key is None:", "if False:"),
    ),
    guard(
        "front door: what is due is handed to one process",
        f"{_REQUESTS}::test_what_is_due_is_handed_to_one_process",
        ("request_store:_CLAIM", " AND try_at <= clock_timestamp()", ""),
    ),
    guard(
        "front door: a run that was made before is found",
        f"{_ASKING}::TestOneRun::test_one_whose_run_was_made_and_not_recorded_gets_no_other_one",
        ("_trigger", "run_id=request.own_run_id,", 'run_id=f"{request.own_run_id}.{request.tries}",'),
    ),
    guard(
        "front door: the conf of a run is what was requested",
        f"{_ASKING}::test_a_run_by_hand_with_the_id_of_a_request_and_another_content_asks_no_model",
        ("requested_in", "(dag_run.conf or {}).get(PARAM) != asked.conf", "False"),
    ),
    guard(
        "front door: a request that was cancelled asks no model",
        f"{_ASKING}::TestCancel::test_before_there_is_a_job_the_model_is_not_asked",
        ("stop_if_cancelled", "request.state is not RequestState.CANCELLED", "True"),
    ),
    guard(
        "front door: a request is for those who asked",
        f"{_ASKING}::test_only_those_who_asked_and_those_who_may_see_the_jobs_of_the_dag_see_a_request",
        ("_visible", "if dag_id is None or not viewer.visible([dag_id]):", "if False:"),
    ),
    guard(
        "front door: only a service account asks for others",
        f"{_ASKING}::test_a_service_account_asks_for_a_user_and_both_are_on_the_record",
        ("_requester", 'login not in settings.names("service_accounts")', "False"),
    ),
    guard(
        "watching: a stream goes on after the last part",
        f"{_STREAMS}::TestRead::test_a_stream_that_is_cut_off_goes_on_after_the_last_part",
        ("OpenAIResponseStream.parts", '{} if self.after is None else {"starting_after": self.after}', "{}"),
        ("OpenAIResponseStream._read", "self.after is not None and number <= self.after", "False"),
    ),
    guard(
        "watching: no part is read twice",
        f"{_STREAMS}::TestRead::test_what_was_read_before_is_not_read_again_even_if_it_is_sent_again",
        ("OpenAIResponseStream._read", "self.after is not None and number <= self.after", "False"),
    ),
    guard(
        "watching: those who watch a response share one reader",
        f"{_READERS}::test_many_who_watch_a_response_share_one_reader_and_those_who_come_late_get_what_there_is",
        ("StreamReaders.join", "reader = self._readers.get(key)", "reader = None"),
    ),
    guard(
        "watching: nothing is read when no one watches",
        f"{_READERS}::test_nothing_is_read_when_no_one_watches",
        ("StreamReaders.leave", "reader.task.cancel()", "pass"),
    ),
    guard(
        "watching: what a reader keeps is bounded",
        f"{_READERS}::test_someone_who_takes_nothing_holds_up_no_one_and_learns_how_much_they_missed",
        ("Reader._keep", "self._pieces.popleft()", "break"),
    ),
    guard(
        "watching: a process reads so many responses at most",
        f"{_READERS}::test_a_process_reads_no_more_than_its_bound",
        ("StreamReaders.join", "len(self._readers) >= MAX_READERS", "False"),
    ),
    guard(
        "watching: those who ask see the draft where its author says so",
        f"{_LIVE}::TestThoseWhoAsk::test_they_see_no_word_of_it_otherwise_but_those_who_may_see_the_job_do",
        ("may_watch", 'return _shows(followed.request, "shows_draft")', "return True"),
    ),
    guard(
        "watching: a stream is no part of what the model is asked",
        "tests/unit/core/generation/openai/test_request.py"
        "::TestArguments::test_a_stream_is_processing_and_no_part_of_what_the_model_is_asked",
        ("request:PROCESSING_ARGUMENTS", '        "stream",\n', ""),
    ),
    guard(
        "events: a later one of a job waits for the earlier one",
        f"{_OUTBOX}::test_a_jobs_later_event_waits_for_the_earlier_one_and_those_of_other_jobs_do_not",
        ("delivery_store:_DUE", "AND earlier.state = 'waiting'", "AND false"),
    ),
    guard(
        "events: one deliverer at a time has a subscription",
        f"{_OUTBOX}::test_two_deliverers_never_have_the_same_subscription",
        ("delivery_store:_LEASE", "lease_token IS NULL OR lease_until <= clock_timestamp()", "true"),
    ),
    guard(
        "events: a deliverer without the lease records nothing",
        f"{_OUTBOX}::test_what_a_deliverer_records_after_its_lease_is_anothers_changes_nothing",
        ("delivery_store:_IS_LEASED", "s.lease_token = %(token)s", "%(token)s IS NOT NULL"),
    ),
    guard(
        "events: a deliverer without the lease ends no lease",
        f"{_OUTBOX}::test_what_a_deliverer_records_after_its_lease_is_anothers_changes_nothing",
        ("delivery_store:_RELEASE", "lease_token = %(token)s", "%(token)s IS NOT NULL"),
    ),
    guard(
        "events: one that kills each deliverer is given up",
        f"{_OUTBOX}::test_an_event_that_kills_each_deliverer_has_an_end_too",
        ("Outbox.take.work", "connection.execute(_GIVE_UP, values).rowcount", "0"),
    ),
    guard(
        "events: the output is shown only where its author says so",
        f"{_OUTBOX}::test_the_event_that_a_job_is_done_has_its_output_only_where_its_author_says_so",
        ("delivery_store:_TAKE", "coalesce(asked.events_show_result, false)", "true"),
    ),
    guard(
        "events: nothing is sent once the lease may be another's",
        f"{_SENDING}::test_nothing_more_is_sent_once_the_lease_may_be_anothers",
        ("_Round.is_over", "or time.monotonic() >= self.until", ""),
    ),
    guard(
        "events: only listed hosts are called",
        f"{_ADDRESS}::test_nothing_else_may_be_subscribed",
        ("checked_address", "for each in allowed.public)", "for each in allowed.public) and False"),
    ),
    guard(
        "events: no address inside of a network is called",
        f"{_POST}::test_a_name_that_leads_inside_of_a_network_is_not_called",
        ("checked_ips", "if not may_be_called(ip, is_internal=address.is_internal):", "if False:"),
    ),
    guard(
        "events: an address of IPv6 that stands for one of IPv4 is taken for that",
        f"{_ADDRESS}::test_no_address_inside_of_a_network_may_be_called",
        ("may_be_called", "_meant(ipaddress", "(ipaddress"),
    ),
    guard(
        "events: the call goes to the address that was checked",
        f"{_POST}::test_it_is_sent_to_the_address_that_was_checked_in_the_name_of_the_host",
        ("_pool.Checked._new_conn", "_connect(ips,", "_connect([self.host],"),
    ),
    guard(
        "events: an answer whose head was cut off is none",
        f"{_POST}::test_a_receiver_that_does_not_answer_in_time_is_cut_off_however_it_drips",
        ("post_event", "if watch.over:", "if False:"),
    ),
    guard(
        "events: the secrets that verify webhooks sign none",
        "tests/integration/web/test_events.py::test_what_cannot_be_subscribed_is_refused_and_not_recorded",
        ("check_wanted", "if wanted.secret_conn_id in configured_conn_ids():", "if False:"),
    ),
    guard(
        "events: subscriptions are for those who may act on every Dag",
        "tests/integration/web/test_events.py::test_only_those_who_may_act_on_every_dag_see_subscriptions",
        ("check_may_subscribe", "if not may_set_limits(ledger, viewer):", "if False:"),
    ),
    guard(
        "notices: a retry of a run is no second run",
        f"{_NOTICES}::test_a_retry_and_a_clear_of_a_run_are_no_second_run",
        ("notice_store:_DUE", "found_by <> %(run_id)s AND ", ""),
    ),
    guard(
        "notices: one run at a time sends",
        f"{_NOTICES}::test_of_many_runs_at_once_one_sends",
        ("notice_store:_CLAIM", "AND (send_until IS NULL OR send_until < statement_timestamp())", ""),
    ),
    guard(
        "notices: a run that lost its permission records nothing",
        f"{_NOTICES}::test_a_run_that_dies_leaves_its_notice_to_another_one_and_records_nothing_after_it",
        ("notice_store:_NOTIFIED", "WHERE send_token = %(token)s", "WHERE %(token)s IS NOT NULL"),
    ),
)


def main() -> None:
    """Take out the guards that are asked for, and print what turned red."""
    words = sys.argv[1:]
    chosen = [each for each in GUARDS if not words or any(word in each.name for word in words)]
    if not chosen:
        sys.exit("No guard has such a name.")
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder) / "repository"
        _copy(copy)
        server = open_postgres(Path(folder) / "postgres", {"fsync": "off", "full_page_writes": "off"})
        server.start()
        try:
            os.environ[URL_VARIABLE] = server.url("postgres")
            if (before := _pytest(copy, *dict.fromkeys(each.test for each in chosen))) != _GREEN:
                sys.exit(f"With every guard in its place the tests are not green: {before}.")
            definitions = Definitions(copy / PACKAGE)
            green = [each for each in chosen if not _turns_red(copy, definitions, each)]
        finally:
            os.environ.pop(URL_VARIABLE, None)
            server.destroy()
    print(f"\n{len(chosen)} guards taken out, {len(chosen) - len(green)} turned their test red.")
    sys.exit(1 if green else 0)


def _copy(to: Path) -> None:
    to.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, to / name)


def without(definitions: Definitions, each: Guard) -> dict[Path, str]:
    """Return the text of each file that a guard stands in, without the guard.

    :raises LookupError: a definition is not there, or there more than once; or what it is to have in it.
    """
    cuts: dict[Path, list[tuple[int, str, str]]] = {}
    for name, there, instead in each.edits:
        definition = definitions.find(name)
        if (count := definition.text.count(there)) != 1:
            raise LookupError(f"{name} in {definition.path} has this {count} times, not once:\n{there}")
        cuts.setdefault(definition.path, []).append((definition.start + definition.text.index(there), there, instead))
    texts = {path: path.read_text("utf-8") for path in cuts}
    for path, cut in cuts.items():
        for start, there, instead in sorted(cut, reverse=True):
            texts[path] = texts[path][:start] + instead + texts[path][start + len(there) :]
    return texts


def _turns_red(copy: Path, definitions: Definitions, each: Guard) -> bool:
    """Take one guard out, run its test, put it back, and print the line of the table."""
    mutated = without(definitions, each)
    before = {path: path.read_text("utf-8") for path in mutated}
    for path, text in mutated.items():
        path.write_text(text, "utf-8")
    verdict = _pytest(copy, each.test)
    for path, text in before.items():
        path.write_text(text, "utf-8")
    file, *_, test = each.test.split("::")
    print(f"{verdict:9}  {each.name:56}  {Path(file).name}::{test}", flush=True)
    return verdict == _RED


def _pytest(copy: Path, *tests: str) -> str:
    """Run tests on the copy, whose package stands before the installed one in the path.

    A test that could not be run, or does not end, is no answer.
    """
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--basetemp=../pytest"]
    whole = {**os.environ, "AIHANDOFF_WHOLE_MATRIX": "1"}
    try:
        result = subprocess.run(
            [*command, *tests], cwd=copy, capture_output=True, text=True, check=False, timeout=TIMEOUT, env=whole
        )
    except subprocess.TimeoutExpired:
        return _NO_ANSWER
    summary = result.stdout.rstrip().rpartition("\n")[2]
    if result.returncode == 0:
        return _GREEN
    if result.returncode == 1 and "failed" in summary and "error" not in summary:
        return _RED
    print(result.stdout[-2000:], result.stderr[-2000:])
    return _NO_ANSWER


if __name__ == "__main__":
    main()
