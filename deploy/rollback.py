"""Moving an alias back to the version that it pointed to before."""

from __future__ import annotations

from collections.abc import Callable

from mlflow import MlflowClient

from deploy.moves import Move, is_unfinished, trail
from deploy.promotions import (
    AliasMovedError,
    PromotionError,
    aliases_of,
    known_moves,
    move_alias,
)


def roll_back(
    client: MlflowClient,
    model_name: str,
    *,
    alias: str,
    check: Callable[[int], None],
    to: int | None = None,
    why: str = "",
) -> tuple[Move, bool]:
    """Move an alias back to the version before, by its records.

    Rolling back twice goes back two versions. A rollback that broke off is finished.

    Args:
        client: of the registry.
        model_name: registered model.
        alias: what moves.
        check: raises if that version should not be used.
        to: the version to go to, one that the alias has been promoted to; ``None``: the one
            before.
        why: told by a person.

    Returns:
        As :func:`move_alias`.

    Raises:
        PromotionError: there is no such model, alias, version, or nothing to go back to.
    """
    while True:
        moves = known_moves(client, model_name, alias)
        current = aliases_of(client, model_name).get(alias)
        target = _target(moves, current, to)
        check(target)
        before = next((m for m in reversed(moves) if m.to_version == target), None)
        told = ("sweep_id", "trial_id", "run_id", "content_hash", "metric", "score")
        about = {name: getattr(before, name) for name in told} if before else {}
        try:
            return move_alias(
                client,
                model_name,
                alias=alias,
                kind="rollback",
                to_version=target,
                seen=current,
                why=why,
                **about,
            )
        except AliasMovedError:
            continue


def _target(moves: list[Move], current: int | None, to: int | None) -> int:
    """Return the version that a rollback goes to; arguments as :func:`roll_back` has them."""
    last = moves[-1]
    if last.kind == "rollback" and is_unfinished(moves, current) and to in {None, last.to_version}:
        return last.to_version
    if to is None:
        versions = trail(moves, current)
        before = versions[:-1] if current is not None else versions
        if not before:
            raise PromotionError(
                f"alias {last.alias!r} has pointed to no version before {current}; name one with "
                "--to, or promote another"
            )
        return before[-1]
    if to not in {move.to_version for move in moves} | {move.from_version for move in moves}:
        raise PromotionError(f"alias {last.alias!r} has never pointed to version {to}")
    if to == current:
        raise PromotionError(f"alias {last.alias!r} points to version {to} already")
    return to
