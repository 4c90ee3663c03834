from __future__ import annotations

import dataclasses

import pytest

from pas_trainer import (
    AnnealedConfig,
    ControlConfig,
    DataConfig,
    OptimizerConfig,
    SearchConfig,
    TrialConfig,
    content_key,
)
from pas_trainer.keys import plain_values, state_key
from search_space import Budget, SupernetConfig

TRIAL = TrialConfig(
    data=DataConfig(name="digits"),
    supernet=SupernetConfig(name="repvgg_tiny"),
    budget=Budget(limit=0.5),
    strength=1.0,
)


def configs(trial):
    return [
        trial,
        ControlConfig(kind="uniform", trial=trial),
        AnnealedConfig(trial=trial, further=(Budget(limit=0.25),)),
    ]


@pytest.mark.parametrize("kind", range(3))
def test_states_are_known_by_what_the_latency_table_holds_not_by_where_it_lies(tmp_path, kind):
    def key(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        table = str(tmp_path / name)
        return state_key(configs(dataclasses.replace(TRIAL, latency_table=table))[kind])

    without = state_key(configs(TRIAL)[kind])
    assert without == content_key(configs(TRIAL)[kind])
    assert key("here.json", "{}") == key("there.json", "{}") != without
    assert key("here.json", "{1}") != key("there.json", "{}")


@pytest.mark.parametrize(
    ("batch_size", "num_images", "epochs", "workers", "expected"),
    [
        (512, 45_000, 1, 1, 32),  # 1,406 steps; of 64 images it would be 703
        (512, 45_000, 5, 1, 128),  # 1,755 steps; of 256 images it would be 875
        (512, 1_000_000, 1, 1, 512),
        (512, 100, 1, 1, 32),
        (48, 100, 1, 1, 48),  # half of it would be less than 32
        (192, 45_000, 1, 1, 48),
        (70, 100, 1, 1, 35),
        (70, 100, 1, 2, 70),  # 35 images cannot be shared by two
        (2, 100, 1, 1, 2),
    ],
)
def test_a_search_takes_smaller_batches_for_more_steps(
    batch_size, num_images, epochs, workers, expected
):
    parts = 4 if batch_size > 8 else 1
    recipe = OptimizerConfig(batch_size=batch_size, learning_rate=0.2, micro_batches=parts)
    search = SearchConfig(epochs=epochs, learning_rate_scale=0.5)
    own = search.recipe(recipe, num_images, workers)
    share = expected / batch_size
    assert own.learning_rate == pytest.approx(0.1 * share)
    assert own == dataclasses.replace(
        recipe,
        batch_size=expected,
        learning_rate=own.learning_rate,
        micro_batches=max(1, int(parts * share)),
    )
    given = dataclasses.replace(search, batch_size=64).recipe(recipe, num_images, workers)
    assert given.batch_size == 64
    assert given.learning_rate == pytest.approx(0.1 * 64 / batch_size)


def test_a_search_whose_batches_are_not_set_is_known_as_before():
    assert "batch_size" not in plain_values(SearchConfig())
    assert content_key(SearchConfig()) != content_key(SearchConfig(batch_size=32))


def test_widths_are_moved_halfway_to_uniform_but_not_in_a_front():
    assert SearchConfig().share_toward_uniform(in_front=False) == 0.5
    assert SearchConfig().share_toward_uniform(in_front=True) == 0.0
    for share in (0.0, 0.7):
        search = SearchConfig(toward_uniform=share)
        assert search.share_toward_uniform(in_front=True) == share
        assert search.share_toward_uniform(in_front=False) == share
    with pytest.raises(ValueError, match=r"toward_uniform is 1\.5; it must be in \[0, 1\]"):
        SearchConfig(toward_uniform=1.5)
