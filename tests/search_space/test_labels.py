import torch
from hypothesis import given
from hypothesis import strategies as st

from search_space.labels import STAYS, Labels, collapse, varying_dims

COUNT = 12
pairs = st.lists(st.tuples(st.integers(0, COUNT), st.integers(0, COUNT)), max_size=20)


def _smallest_reachable(count: int, edges: list[tuple[int, int]]) -> list[int]:
    """Brute force: walk from every label along all ties."""
    found = []
    for start in range(count):
        reached, before = {start}, set[int]()
        while reached != before:
            before = set(reached)
            for a, b in edges:
                if a in reached or b in reached:
                    reached |= {a, b}
        found.append(min(reached))
    return found


@given(first=pairs, second=pairs)
def test_classes_are_the_connected_components(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    labels = Labels()
    labels.new((COUNT,))
    for edges in (first, second):  # asked in between: later ties must count as well
        for a, b in edges:
            labels.tie(torch.tensor(a), torch.tensor(b))
        if edges is first:
            assert labels.classes().tolist() == _smallest_reachable(COUNT + 1, first)
    assert labels.classes().tolist() == _smallest_reachable(COUNT + 1, [*first, *second])


def test_a_long_chain_of_ties_is_one_class() -> None:
    labels = Labels()
    chain = labels.new((1000,))
    labels.tie(chain[:-1], chain[1:])
    assert labels.classes()[chain].unique().tolist() == [1]


def test_new_labels_are_fresh() -> None:
    labels = Labels()
    a, b = labels.new((2, 3)), labels.new((4,))
    assert a.shape == (2, 3)
    assert sorted([*a.flatten().tolist(), *b.tolist()]) == list(range(STAYS + 1, STAYS + 11))


def test_ties_broadcast() -> None:
    labels = Labels()
    a, b = labels.new((1, 3, 1, 1)), labels.new((3, 1, 2))
    labels.tie(a, b)
    classes = labels.classes()
    for channel in range(3):
        members = [a[0, channel], *b[channel].flatten()]
        assert {int(classes[m]) for m in members} == {channel + 1}


def test_pinned_labels_and_all_that_is_tied_to_them_stay() -> None:
    labels = Labels()
    a, b = labels.new((3,)), labels.new((3,))
    labels.tie(a, b)
    labels.pin(b[1])
    assert labels.classes()[a].tolist() == [1, STAYS, 3]


shapes = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@given(shape=shapes, seed=st.integers(0, 99))
def test_collapsed_labels_expand_to_what_they_were(shape: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    few = [s if torch.rand(1, generator=generator) < 0.5 else 1 for s in shape]
    labels = torch.randint(0, 3, few, generator=generator).expand(shape)
    for full in (labels, labels.contiguous()):
        small = collapse(full)
        assert torch.equal(small.expand(shape), full)
        for dim in range(full.ndim):
            is_constant = all(
                torch.equal(full.select(dim, 0), full.select(dim, k)) for k in range(shape[dim])
            )
            assert (small.shape[dim] == 1) == is_constant
        assert varying_dims(small) == [d for d, s in enumerate(small.shape) if s > 1]
