"""Moving an alias so that its history is known, and moving it back.

The registry cannot compare and swap an alias. So a move is first recorded, as a tag of the version
that the alias moves to, then made: the alias is set to wherever the *last* record says, and set
again if meanwhile another record was written. Whoever comes last through this leaves the alias
where the last record says, so promotions at the same time end in one state that all of them know,
and each leaves its record. One that dies after its record is finished by doing it again.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from deploy.manifest import MODEL_NAME
from deploy.moves import (
    DONE_TAG,
    MAX_WHY_CHARS,
    Kind,
    Move,
    in_order,
    is_unfinished,
    moves_among,
    new_move_id,
)
from deploy.paging import paged
from deploy.user_name import user_name

_UNKNOWN = "RESOURCE_DOES_NOT_EXIST"


class PromotionError(ValueError):
    """What is asked of the registry cannot be done; one sentence."""


class AliasMovedError(Exception):
    """The alias has moved since it was looked at; look again."""


def check_request(model_name: str, alias: str, why: str) -> None:
    """Check what MLflow would only refuse after work is done.

    Raises:
        PromotionError: a name is not allowed, or the reason is too long.
    """
    if not (model_name.strip() and MODEL_NAME.fullmatch(model_name)):
        raise PromotionError(
            f"model name {model_name!r} must have 1 to 200 characters, none of them '/', '\\', ':' "
            "or a control character, and must not begin with '.'"
        )
    if "'" in model_name and '"' in model_name:
        raise PromotionError(f"model name {model_name!r} has both kinds of quotes; leave one out")
    reserved = re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE)
    if reserved or not re.fullmatch(r"[\w-]{1,255}", alias):
        raise PromotionError(
            f"alias {alias!r} is not allowed; use letters, digits, '-' and '_', but not 'latest' "
            "nor a version such as 'v1'"
        )
    if len(why) > MAX_WHY_CHARS:
        raise PromotionError(f"why has {len(why)} characters; at most {MAX_WHY_CHARS} are kept")


def aliases_of(client: MlflowClient, model_name: str) -> dict[str, int]:
    """Return alias -> version of a registered model; none if there is no such model."""
    try:
        model = client.get_registered_model(model_name)
    except MlflowException as error:
        if error.error_code == _UNKNOWN:
            return {}
        raise
    return {alias: int(version) for alias, version in model.aliases.items()}


def read_moves(client: MlflowClient, model_name: str, alias: str | None = None) -> list[Move]:
    """Return the recorded moves of one alias, or of all, the oldest first.

    Those onto a version that was deleted are gone with it.
    """
    quote = '"' if "'" in model_name else "'"
    which = f"name={quote}{model_name}{quote}"
    moves = [
        move
        for version in paged(client.search_model_versions, filter_string=which)
        for move in moves_among(version.tags, int(version.version))
    ]
    return in_order([move for move in moves if alias in {None, move.alias}])


def known_moves(client: MlflowClient, model_name: str, alias: str | None = None) -> list[Move]:
    """As :func:`read_moves`, of a model that has some.

    Raises:
        PromotionError: no such model, or it (or the alias) was never promoted by this package.
    """
    moves = read_moves(client, model_name, alias)
    if moves:
        return moves
    try:
        client.get_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != _UNKNOWN:
            raise
        raise PromotionError(f"there is no registered model {model_name!r}") from None
    others = sorted({move.alias for move in read_moves(client, model_name)})
    if others:
        raise PromotionError(
            f"alias {alias!r} of model {model_name!r} was never promoted; known: "
            f"{', '.join(others)}"
        )
    raise PromotionError(
        f"model {model_name!r} has no recorded promotion; it was registered by other means, or "
        "before promotions were recorded"
    )


def move_alias(
    client: MlflowClient,
    model_name: str,
    *,
    alias: str,
    kind: Kind,
    to_version: int,
    seen: int | None,
    **about: Any,
) -> tuple[Move, bool]:
    """Record a move and make it.

    A move of this kind that was begun and broke off is finished; one that was made already is not
    made again.

    Args:
        client: of the registry.
        model_name: registered model.
        alias: what moves.
        kind: promotion or rollback.
        to_version: where to.
        seen: where the alias pointed to when this was decided.
        about: further attributes of the :class:`deploy.moves.Move`.

    Returns:
        The move, and whether it is in force: not if another one was recorded after it meanwhile.

    Raises:
        AliasMovedError: the alias points elsewhere than ``seen``.
    """
    everything = read_moves(client, model_name)
    moves = [move for move in everything if move.alias == alias]
    if aliases_of(client, model_name).get(alias) != seen:
        raise AliasMovedError
    last = moves[-1] if moves else None
    if last and last.to_version == to_version:
        if last.kind == kind and is_unfinished(moves, seen):
            return last, _settle(client, model_name, alias) == last.move_id
        if last.done and seen == to_version:
            return last, True
    move = Move(
        move_id=new_move_id(),
        number=max((m.number for m in everything), default=0) + 1,
        kind=kind,
        alias=alias,
        from_version=seen,
        to_version=to_version,
        who=f"{user_name()}@{socket.gethostname()}",
        **about,
    )
    client.set_model_version_tag(model_name, str(to_version), *move.tag())
    return move, _settle(client, model_name, alias) == move.move_id


def _settle(client: MlflowClient, model_name: str, alias: str) -> str:
    """Bring the alias to where the last record says and return that record's id."""
    last = read_moves(client, model_name, alias)[-1]
    while True:
        _twice(client.set_registered_model_alias, model_name, alias, str(last.to_version))
        newest = read_moves(client, model_name, alias)[-1]
        if newest.move_id == last.move_id:
            break
        last = newest
    now = datetime.now(UTC).isoformat(timespec="seconds")
    done = DONE_TAG + last.move_id
    _twice(client.set_model_version_tag, model_name, str(last.to_version), done, now)
    return last.move_id


def _twice(write: Callable[..., None], *arguments: str) -> None:
    """Write, once more if that fails: MLflow inserts what it has not found.

    Of two that set the same new alias or tag at the same moment, one fails; then it is there, and
    is replaced.
    """
    try:
        write(*arguments)
    except MlflowException:
        write(*arguments)
