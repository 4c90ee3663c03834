"""Records of an alias's moves, and what follows from them. Nothing here knows MLflow.

A move is a tag of the version that the alias moves to, written once and never changed. Their order
is that of their numbers: one more than the largest known when the record was written. Of equals,
written at once by several, the one with the later id counts. The last record decides where the
alias belongs.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

MOVE_TAG = "pas.promotion."
"""Begins the tag that holds a move; its id follows."""
DONE_TAG = "pas.promoted."
"""Begins the tag that says when the alias had moved; the move's id follows."""
MAX_WHY_CHARS = 500
"""Of the reason given by a person: a record stays below the 5,000 characters of a tag's value that
every MLflow server takes."""
_ACCURACY = "accuracy"
_TIME = "%Y%m%dT%H%M%S.%fZ"

Kind = Literal["promotion", "rollback"]
State = Literal["in force", "past", "unfinished", "overtaken"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """One move of an alias.

    Attributes:
        move_id: UTC time and random characters; unique.
        number: gives the order, see above.
        kind: promotion or rollback.
        alias: what moves.
        from_version: where it pointed before; ``None``: nowhere.
        to_version: where it moves to.
        who: user and host.
        why: as told by a person.
        sweep_id, trial_id, run_id: where the version comes from.
        content_hash: of its package, see :func:`deploy.content_hash`.
        metric: what the version was judged by.
        score: of the version, by that, when it was promoted.
        gates: by name, whether it passed, what was measured and what was required.
        done: the alias has moved; not part of the record.
    """

    move_id: str
    number: int
    kind: Kind
    alias: str
    from_version: int | None
    to_version: int
    who: str
    why: str = ""
    sweep_id: str = ""
    trial_id: str = ""
    run_id: str = ""
    content_hash: str = ""
    metric: str = _ACCURACY
    score: float | None = None
    gates: Mapping[str, Any] = field(default_factory=dict)
    done: bool = False

    @property
    def time(self) -> datetime:
        """When it was recorded, UTC."""
        return datetime.strptime(self.move_id.rpartition(".")[0], _TIME).replace(tzinfo=UTC)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    def tag(self) -> tuple[str, str]:
        """Return name and value of the tag that records it."""
        document = self.to_json()
        del document["done"], document["move_id"], document["to_version"]
        if self.metric == _ACCURACY:  # as versions of this package that know no other metric
            del document["metric"]
            document[_ACCURACY] = document.pop("score")
        return MOVE_TAG + self.move_id, json.dumps(
            document, separators=(",", ":"), ensure_ascii=False
        )


def new_move_id() -> str:
    """Return an id for a move that is about to be recorded."""
    return f"{datetime.now(UTC).strftime(_TIME)}.{secrets.token_hex(4)}"


def moves_among(tags: Mapping[str, str], version: int) -> list[Move]:
    """Return the moves recorded in the tags of a version; what is no record is left out."""
    found = []
    for name, value in tags.items():
        move_id = name.removeprefix(MOVE_TAG)
        if move_id == name:
            continue
        done = DONE_TAG + move_id in tags
        try:
            document = json.loads(value)
            if _ACCURACY in document:
                document["score"] = document.pop(_ACCURACY)
            move = Move(**document, move_id=move_id, to_version=version, done=done)
            _ = move.time
        except (TypeError, ValueError):
            continue
        if isinstance(move.number, int) and isinstance(move.from_version, int | None):
            found.append(move)
    return found


def in_order(moves: Sequence[Move]) -> list[Move]:
    """Return moves, the oldest first."""
    return sorted(moves, key=lambda move: (move.number, move.move_id))


def is_unfinished(moves: Sequence[Move], current: int | None) -> bool:
    """Tell whether the last move of an alias was recorded, but whoever did it got no further.

    Args:
        moves: of one alias, in order.
        current: where the alias points to.
    """
    if not moves or moves[-1].done:
        return False
    return current in {moves[-1].from_version, moves[-1].to_version}


def is_moved_by_others(moves: Sequence[Move], current: int | None) -> bool:
    """Tell whether an alias points elsewhere than its moves say; arguments as before."""
    if not moves or is_unfinished(moves, current):
        return False
    return current != moves[-1].to_version


def states(moves: Sequence[Move], current: int | None) -> list[State]:
    """Return what has become of each move; arguments as before.

    Returns:
        Of the last: ``in force``; ``unfinished``, if the alias has not moved yet; ``past``, if
        others have moved it since. Of those before: ``past``, or ``overtaken`` where another move
        was recorded before the alias had moved.
    """
    found: list[State] = ["past" if move.done else "overtaken" for move in moves]
    if moves and current == moves[-1].to_version:
        found[-1] = "in force"
    elif moves:
        found[-1] = "unfinished" if is_unfinished(moves, current) else "past"
    return found


def trail(moves: Sequence[Move], current: int | None) -> list[int]:
    """Return the versions that led to where an alias points, as a browser's back button has them.

    A promotion adds a version, a rollback takes off those behind the one it goes back to.

    Args:
        moves: of one alias, in order.
        current: where the alias points to; it ends the trail, whoever moved the alias there.
    """
    versions: list[int] = []
    for move, state in zip(moves, states(moves, current), strict=True):
        if state in {"overtaken", "unfinished"}:
            continue
        if move.from_version is not None:
            _go_back(versions, move.from_version)
        if move.kind == "rollback":
            _go_back(versions, move.to_version)
        else:
            _go_on(versions, move.to_version)
    if current is not None:
        _go_on(versions, current)
    return versions


def _go_on(versions: list[int], version: int) -> None:
    if versions[-1:] != [version]:
        versions.append(version)


def _go_back(versions: list[int], version: int) -> None:
    """Take off what lies behind a version; one that is not there is new."""
    if version in versions:
        while versions[-1] != version:
            versions.pop()
    else:
        versions.append(version)
