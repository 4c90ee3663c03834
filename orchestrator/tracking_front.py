"""What MLflow's UI shows of a sweep's front: tags of its trials' runs, and its networks as models.

Decided when the sweep ends, since a front changes while it runs. A network gets its files once it
is promoted; one that has left the front, after more trials, stays and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.tracking_format import FRONT_TAG
from orchestrator.tracking_note import NOTE_TAG


def log_front_models(
    client: Any, experiment_id: str, sweep_id: str, members: Mapping[str, str]
) -> None:
    """Make a logged model of each member of the front that has none, and mark the others.

    May be repeated; then it writes only what is missing.

    Args:
        client: MLflow client.
        experiment_id: where the sweep's runs are.
        sweep_id: the sweep's name and hash.
        members: trial id -> MLflow run, of the front.
    """
    from deploy.logged_models import log_network, logged_networks

    known = logged_networks(client, experiment_id, f"tags.`pas.sweep_id` = '{sweep_id}'")
    ready = {model.source_run_id for model in known if model.status == "READY"}
    for run_id in members.values():
        if run_id not in ready:
            run = client.get_run(run_id)
            tags = {FRONT_TAG: "true", NOTE_TAG: _note(sweep_id, run.data.tags["pas.trial_id"])}
            known.append(log_network(client, run, run.data.tags.get("pas.content_hash"), tags))
    _mark(client, known, set(members.values()))


def _note(sweep_id: str, trial_id: str) -> str:
    return (
        f"The network of trial {trial_id}, on the front when its sweep ended. Its figures are "
        "here; its files stay with the sweep until it is checked and registered:\n\n"
        f"    pas promote {sweep_id} --trial {trial_id} --model NAME"
    )


def _mark(client: Any, models: Iterable[Any], members: set[str]) -> None:
    """Tag models by whether they are on the front."""
    for model in models:
        on_front = "true" if model.source_run_id in members else "false"
        if model.tags.get(FRONT_TAG) != on_front:
            client.set_logged_model_tags(model.model_id, {FRONT_TAG: on_front})
