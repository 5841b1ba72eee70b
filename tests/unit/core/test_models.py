"""Who acted, as facts and in words."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.models import RECONCILER, TIMEOUT, Actor, ActorKind, Owner

TASK = Owner("publishing", "manual__1", "draft", -1, "ti-1", 1).actor
ALL = [
    TASK,
    Actor.user("alice"),
    Actor.user("alice", "7"),
    Actor.terminal("bob"),
    Actor.policy("small@1"),
    Actor.webhook("openai_default"),
    Actor.program("benchmark"),
    TIMEOUT,
    RECONCILER,
]


@pytest.mark.parametrize(
    ("actor", "text", "label"),
    [
        (TASK, "task:publishing/manual__1/draft#1", "publishing/manual__1/draft#1"),
        (Owner("d", "r", "t", 0, "ti", 2).actor, "task:d/r/t[0]#2", "d/r/t[0]#2"),
        (Actor.user("alice"), "user:alice", "alice"),
        (Actor.user("alice", "alice"), "user:alice", "alice"),
        (Actor.user("alice", "7"), "user:alice (7)", "alice (7)"),
        (Actor.terminal("bob"), "user:cli:bob", "cli:bob"),
        (Actor.policy("small@1"), "policy:small@1", "small@1"),
        (Actor.webhook("openai_default"), "webhook:openai_default", "openai_default"),
        (Actor.program("benchmark"), "benchmark", "benchmark"),
        (TIMEOUT, "timeout", "timeout"),
        (RECONCILER, "reconciler", "reconciler"),
    ],
)
def test_an_actor_in_words(actor: Actor, text: str, label: str) -> None:
    assert (str(actor), actor.label) == (text, label)


def test_the_actors_here_are_of_every_kind() -> None:
    assert {actor.kind for actor in ALL} == set(ActorKind)


@pytest.mark.parametrize("actor", ALL, ids=str)
def test_an_actor_has_the_facts_of_its_kind_and_no_others(actor: Actor) -> None:
    assert actor.is_whole
    for each in fields(actor):
        if each.name in ("kind", "user_id" if actor.kind is ActorKind.USER else ""):
            continue
        other = None if getattr(actor, each.name) is not None else "x"
        changes: dict[str, Any] = {each.name: other}
        assert not replace(actor, **changes).is_whole


@given(st.sampled_from(ALL), st.text())
def test_text_that_a_column_cannot_store_is_replaced(actor: Actor, text: str) -> None:
    if actor.name is not None:
        actor = replace(actor, name=text + "\x00\ud800")
        assert actor.name is not None
        assert "\x00" not in actor.name
        actor.name.encode("utf-8")
        assert replace(actor) == actor


def test_attempts_of_one_task_instance_are_distinguished_from_those_of_others() -> None:
    owner = Owner("d", "r", "t", 0, "ti", 1)
    assert replace(owner, try_number=2, ti_id="x").actor.instance == owner.actor.instance
    for other in (replace(owner, dag_id="r"), replace(owner, map_index=1), replace(owner, run_id="r/t")):
        assert other.actor.instance != owner.actor.instance
