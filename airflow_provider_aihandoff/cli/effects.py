"""`airflow aihandoff effects`: list, show and resolve writes to external systems."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.cli.common import actor, command, fail, open_ledger, print_rows, say
from airflow_provider_aihandoff.core.effects.resolve import answer
from airflow_provider_aihandoff.core.models import Effect


@command
def list_effects(args: Namespace) -> None:
    """List effects, newest first."""
    with open_ledger(args) as ledger:
        effects = ledger.list_effects(states=args.state, limit=args.limit)
    names = (
        "effect_id",
        "job_id",
        "name",
        "kind",
        "state",
        "attempt",
        "external_id",
        "external_link",
        "error",
        "probe_note",
    )
    print_rows([{name: getattr(effect, name) for name in names} for effect in effects], args.output)


@command
def show(args: Namespace) -> None:
    """Show one effect."""
    with open_ledger(args) as ledger:
        effect = ledger.effects.read(args.effect_id)
    print_rows(
        [{**asdict(effect), "external_link": effect.external_link}], "yaml" if args.output == "table" else args.output
    )


@command
def resolve(args: Namespace) -> None:
    """Resolve an effect whose outcome is unknown, or one that was refused and is there."""
    applied = args.applied is not None
    if applied == args.not_applied:
        fail("give --applied EXTERNAL_ID or --not-applied, and not both.")
    if not args.reason.strip():
        fail("--reason must say how you know.")
    with open_ledger(args) as ledger:
        attempt = args.attempt or ledger.effects.read(args.effect_id).attempt
        effect = answer(
            ledger,
            args.effect_id,
            applied=applied,
            external_id=args.applied,
            why=args.reason,
            actor=actor(),
            attempt=attempt,
        )
    say(f"Effect {effect.effect_id} ({effect.name}) is {effect.state.value}. {_next(effect)}")


def _next(effect: Effect) -> str:
    """What happens after an effect was resolved."""
    if effect.undoes is not None:
        return f"Continue with `{PROGRAM} rollback {effect.job_id}`."
    return "A waiting task continues by itself. A failed task continues when you clear it."
