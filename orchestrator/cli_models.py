"""Commands on registered models: promotion through gates, rollback, history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli_options import Json, Model, OptionalLimit, SweepName, TrackingUri
from orchestrator.home import Home
from orchestrator.terminal import FAILED, err, say, show

if TYPE_CHECKING:
    from orchestrator.judging import Request
    from orchestrator.promotion import Outcome

Why = Annotated[str, typer.Option(metavar="TEXT", help="Reason, kept with the move.")]
_LATENCY = "One image on one CPU thread of this machine, at most."


def promote(
    sweep: SweepName,
    model: Annotated[str, typer.Option(help="Registered model's name.")],
    budget: OptionalLimit = None,
    trial: Annotated[
        str | None, typer.Option(metavar="TRIAL_ID", help="Instead of the best of the budget.")
    ] = None,
    alias: Annotated[str, typer.Option(help="Alias that moves to the new version.")] = "champion",
    tolerance: Annotated[
        float, typer.Option(min=0, help="How much worse than the champion's its score may be.")
    ] = 0.0,
    worst_score: Annotated[
        float | None,
        typer.Option(
            "--worst-score", "--min-accuracy", help="It must reach, on validation images."
        ),
    ] = None,
    max_latency_ms: Annotated[float | None, typer.Option(min=0, help=_LATENCY)] = None,
    why: Why = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask the gates, change nothing.")
    ] = False,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Hold the best trial within a budget to the gates, register it and move the alias to it."""
    from orchestrator.judging import Request
    from orchestrator.lookup import load_sweep_records, store_of
    from orchestrator.model_tables import gates_table
    from orchestrator.promotion import promote as promote_trial

    info, records = load_sweep_records(sweep, tracking_uri)
    request = Request(
        model_name=model,
        alias=alias,
        limit=budget,
        trial=trial,
        tolerance=tolerance,
        worst_score=worst_score,
        max_latency_ms=max_latency_ms,
        why=why,
        dry_run=dry_run,
    )
    with err.status("promotion") as progress:
        outcome = promote_trial(
            Home.from_environment(),
            records,
            request,
            tracking_uri=store_of(tracking_uri, sweep),
            tell=progress.update,
        )
    title = f"{outcome.record.trial_id} for {model}@{alias}"
    document = _outcome_json(request, outcome, info.resource)
    show(document, as_json, [gates_table(outcome.gates, title)])
    if outcome.refused:
        say(f"not promoted; refused by: {', '.join(outcome.refused)}", "red")
        raise typer.Exit(FAILED)
    promoted = outcome.promoted
    if promoted is None:
        say("all gates would let it pass; nothing was changed (--dry-run)")
    elif promoted.in_force:
        say(f"{alias} of {model} is version {promoted.version}")
    else:
        say(f"version {promoted.version} was overtaken: another move of {alias} came after it")


def _outcome_json(request: Request, outcome: Outcome, resource: str) -> dict[str, Any]:
    promoted, record = outcome.promoted, outcome.record
    return {
        "model": request.model_name,
        "version": promoted and promoted.version,
        "alias": request.alias,
        "model_uri": promoted and promoted.model_uri,
        "in_force": promoted is not None and promoted.in_force,
        "dry_run": request.dry_run,
        "refused": outcome.refused,
        "gates": [gate.to_json() for gate in outcome.gates],
        "parity_error": promoted and promoted.parity_error,
        "resource": resource,
        "cost": record.cost(resource),
        "trial": record.to_json(),
    }


def rollback(
    model: Model,
    alias: Annotated[str, typer.Option(help="Alias that moves back.")] = "champion",
    to: Annotated[
        int | None, typer.Option(min=1, metavar="VERSION", help="Instead of the version before.")
    ] = None,
    why: Why = "",
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Move an alias back to the version it pointed to before; twice goes back two versions."""
    from orchestrator.lookup import store_of
    from orchestrator.model_history import go_back, move_json
    from orchestrator.promotion import GateRefusedError

    store = store_of(tracking_uri, None)
    try:
        move, in_force = go_back(store, model, alias=alias, to=to, why=why)
    except GateRefusedError as error:
        say(f"not rolled back: {error}", "red")
        raise typer.Exit(FAILED) from None
    document: dict[str, Any] = {"model": model, "in_force": in_force, **move_json(move)}
    text = f"{alias} of {model}: version {move.from_version} -> {move.to_version}"
    show(document, as_json, [text])
    if not in_force:
        say(f"overtaken: another move of {alias} came after it")


def history(model: Model, tracking_uri: TrackingUri = None, as_json: Json = False) -> None:
    """Show all moves of a model's aliases, the oldest first, and which are in force."""
    from orchestrator.lookup import store_of
    from orchestrator.model_history import read_history
    from orchestrator.model_tables import history_table

    found = read_history(store_of(tracking_uri, None), model)
    show(found.to_json(), as_json, [history_table(found)])
    for alias, left in found.moved_by_others.items():
        now = found.aliases.get(alias)
        where = "is gone" if now is None else f"points to version {now}"
        say(f"{alias} {where}, though its last move was to version {left}: moved by other means")
