"""What aliases of a registered model have been moved to, and moving them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploy import PackageError
from deploy.moves import Move, State, is_moved_by_others, states
from deploy.promotions import aliases_of, check_request, known_moves
from deploy.registered import check_version
from deploy.rollback import roll_back
from orchestrator.promotion import GateRefusedError, one_sentence
from orchestrator.tracking_server import open_client


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """The moves of a model's aliases.

    Attributes:
        model_name: registered model.
        aliases: where each alias points to now.
        moves: of all aliases, the oldest first, and what has become of each.
        moved_by_others: alias -> where its last move had left it, of aliases that point
            elsewhere now.
    """

    model_name: str
    aliases: dict[str, int]
    moves: tuple[tuple[Move, State], ...]
    moved_by_others: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "model": self.model_name,
            "aliases": self.aliases,
            "moves": [move_json(move) | {"state": state} for move, state in self.moves],
            "moved_by_others": [
                {"alias": alias, "from_version": left, "to_version": self.aliases.get(alias)}
                for alias, left in self.moved_by_others.items()
            ],
        }


def move_json(move: Move) -> dict[str, Any]:
    """Return a move as plain JSON values, the score under its metric's name."""
    document = {"time": move.time.isoformat(), **move.to_json()}
    document[move.metric] = document.pop("score")
    return document


def read_history(tracking_uri: str, model_name: str) -> History:
    """Return what is recorded of a model.

    Raises:
        UserError: no such model, nothing is recorded of it, or the registry does not answer.
    """
    with one_sentence(tracking_uri):
        client = open_client(tracking_uri)
        moves = known_moves(client, model_name)
        aliases = aliases_of(client, model_name)
    state: dict[str, State] = {}
    others: dict[str, int] = {}
    for alias in dict.fromkeys(move.alias for move in moves):
        its = [move for move in moves if move.alias == alias]
        found = states(its, aliases.get(alias))
        state |= {move.move_id: what for move, what in zip(its, found, strict=True)}
        if is_moved_by_others(its, aliases.get(alias)):
            others[alias] = its[-1].to_version
    return History(
        model_name=model_name,
        aliases=aliases,
        moves=tuple((move, state[move.move_id]) for move in moves),
        moved_by_others=others,
    )


def go_back(
    tracking_uri: str, model_name: str, *, alias: str, to: int | None, why: str
) -> tuple[Move, bool]:
    """Move an alias back; see :func:`deploy.rollback.roll_back`.

    Raises:
        UserError: there is no such model, alias or version, nothing to go back to, or the
            version's files are gone.
        GateRefusedError: the version's files are not what was promoted, or cannot be loaded.
    """
    with one_sentence(tracking_uri):
        check_request(model_name, alias, why)
        client = open_client(tracking_uri)
        try:
            return roll_back(
                client,
                model_name,
                alias=alias,
                check=lambda version: check_version(client, model_name, version),
                to=to,
                why=why,
            )
        except PackageError as error:
            raise GateRefusedError(str(error)) from None
