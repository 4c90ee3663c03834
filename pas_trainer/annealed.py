"""One search, many budgets: each network of a front starts from the one before it.

The first network is searched and fine-tuned at the loosest budget, as by
:func:`pas_trainer.run_search` with ``search.toward_uniform`` 0. Every further one is searched in
the network before it, which is trained already and costs less to run, so :data:`FURTHER_SHARE` of
the epochs do. What is trained beside the networks, such as critics, goes on as well.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pas_trainer.checkpoint import Checkpoint
from pas_trainer.config import TrialConfig
from pas_trainer.keys import state_key
from pas_trainer.loop import EpochReport, derive_seed
from pas_trainer.phases import TrialResult
from pas_trainer.search import SearchTrial, Start
from pas_trainer.tasks import Companion
from search_space import Budget, ChannelGraph

FURTHER_SHARE = 0.4
"""Share of the epochs, of both phases, that every budget but the loosest takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnealedConfig:
    """What a whole front depends on.

    Attributes:
        trial: the first trial; its budget is the loosest.
        further: the other budgets, from loose to tight, on the same resources.
    """

    trial: TrialConfig
    further: tuple[Budget, ...]

    def __post_init__(self) -> None:
        """Check that all budgets limit the same."""
        resources = [list(b.written()) for b in (self.trial.budget, *self.further)]
        if any(r != resources[0] for r in resources):
            raise ValueError("the budgets of an annealed schedule limit different resources")

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """All budgets, from loose to tight."""
        return (self.trial.budget, *self.further)

    def at(self, step: int) -> TrialConfig:
        """The trial at the budget of index ``step``."""
        share = self.trial.search.share_toward_uniform(in_front=True)
        search = dataclasses.replace(self.trial.search, toward_uniform=share)
        trial = dataclasses.replace(self.trial, search=search)
        if step == 0:
            return trial
        return dataclasses.replace(
            trial,
            budget=self.budgets[step],
            search=dataclasses.replace(search, epochs=further_epochs(search.epochs)),
            finetune=dataclasses.replace(
                trial.finetune, epochs=further_epochs(trial.finetune.epochs)
            ),
            seed=derive_seed(trial.seed, "annealed", step),
        )


def further_epochs(num_epochs: int) -> int:
    """Return the epochs of a phase at every budget but the loosest."""
    return math.ceil(FURTHER_SHARE * num_epochs)


def run_annealed(
    config: AnnealedConfig,
    supernet_folder: Path,
    found: Callable[[int, TrialResult], None],
    *,
    report: Callable[[int, EpochReport], None] = lambda _step, _report: None,
    checkpoint_folder: Path | None = None,
) -> None:
    """Search one network per budget, from the loosest to the tightest.

    Args:
        config: what the front depends on.
        supernet_folder: where :func:`pas_trainer.train_supernet` left the supernet.
        found: called with the index of the budget and its network, as soon as that is trained;
            after a kill perhaps a second time, with the same network.
        report: called after every epoch with the index of the budget.
        checkpoint_folder: as in :func:`pas_trainer.run_search`.

    Raises:
        DataError: the images cannot be used.
        DivergenceError: the loss became infinite or NaN.
        ValueError: budgets out of order, no network of the search space meets one of them, or the
            latency table cannot be used.
    """
    checkpoint = Checkpoint(checkpoint_folder, state_key(config))
    state = checkpoint.load()
    first = 0 if state is None else state["step"]
    start: Start | None = None
    companion: Companion | None = None
    for step in range(first, len(config.budgets)):

        def report_step(epoch: EpochReport, step: int = step) -> None:
            report(step, epoch)

        trial = SearchTrial(config.at(step), supernet_folder, report_step, checkpoint)
        _check_order(config, trial.graph)
        if state is not None:
            start = trial.sliced_start(state["kept"], state["spent"])
        elif start is None:
            start = trial.supernet_start()
        else:
            trial.go_on_beside(companion)
        keep = {"step": step, "kept": start.kept, "spent": start.spent}
        result = trial.run(start, state, **keep)
        found(step, result)
        kept = result.architecture.open_channels
        start, state = Start(result.training_network, kept, result.training_macs), None
        companion = trial.companion


def _check_order(config: AnnealedConfig, graph: ChannelGraph) -> None:
    limits = [budget.absolute(graph) for budget in config.budgets]
    for looser, tighter in itertools.pairwise(limits):
        if not tighter < looser:
            raise ValueError(
                f"the budgets of an annealed schedule must go from loose to tight, but {tighter:g} "
                f"{config.trial.budget.resource} follows {looser:g}"
            )
