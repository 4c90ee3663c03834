import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space import ChannelGroup, GroupRules, WidthRules


def _group(size: int, channels_per_unit: int = 1, name: str = "conv") -> ChannelGroup:
    return ChannelGroup(name, size, (name,), (), channels_per_unit)


@pytest.mark.parametrize("kind", [WidthRules, GroupRules])
@pytest.mark.parametrize("floor", [0.0, -0.1, 1.01, math.nan])
def test_floor_must_be_a_share(kind: type, floor: float) -> None:
    with pytest.raises(ValueError, match=rf"floor is {floor}; it must be in \(0, 1\]"):
        kind(floor=floor)


@pytest.mark.parametrize("kind", [WidthRules, GroupRules])
@pytest.mark.parametrize("divisor", [0, -8, 2.5])
def test_divisor_must_be_positive(kind: type, divisor: int) -> None:
    with pytest.raises(ValueError, match=f"divisor is {divisor}; it must be a whole number"):
        kind(divisor=divisor)


@pytest.mark.parametrize(
    ("floor", "divisor", "size", "step", "lowest"),
    [
        (1 / 16, 1, 64, 1, 4),
        (1 / 16, 1, 8, 1, 1),
        (1 / 16, 1, 65, 1, 5),
        (1 / 16, 8, 64, 8, 8),
        (1 / 4, 8, 48, 8, 16),
        (1 / 16, 8, 12, 8, 8),
        (0.8, 8, 20, 8, 16),
        (0.9, 8, 20, 8, 20),  # the next multiple, 24, is more than there are
        (0.3, 1, 10, 1, 3),  # 0.3 * 10 is a little above 3 or below, never 4
        (1.0, 8, 20, 8, 20),
    ],
)
def test_steps_and_floors(floor: float, divisor: int, size: int, step: int, lowest: int) -> None:
    rules = WidthRules(floor=floor, divisor=divisor)
    assert (rules.step(_group(size)), rules.lowest(_group(size))) == (step, lowest)


@given(
    divisor=st.integers(1, 32),
    channels_per_unit=st.integers(1, 32),
    size=st.integers(1, 100),
    floor=st.floats(0.01, 1),
)
def test_a_divisor_counts_channels(
    divisor: int, channels_per_unit: int, size: int, floor: float
) -> None:
    rules = WidthRules(divisor=divisor, floor=floor)
    group = _group(size, channels_per_unit)
    multiples = [u for u in range(1, 33) if u * channels_per_unit % divisor == 0]
    assert rules.step(group) == multiples[0]
    allowed = [
        u for u in range(1, size + 1) if u in multiples or u == size or u % multiples[0] == 0
    ]
    assert rules.lowest(group) == min(u for u in allowed if u >= size * floor - 1e-6)


def test_groups_have_rules_of_their_own() -> None:
    rules = WidthRules(
        floor=0.25,
        divisor=8,
        groups={
            "layer1.*": GroupRules(divisor=4),
            "layer1.0.*": GroupRules(floor=0.5),
            "stem[0]": GroupRules(divisor=2),
        },
    )
    expected = {
        "layer2.conv": (0.25, 8),
        "layer1.1.conv": (0.25, 4),
        "layer1.0.conv": (0.5, 4),
        "stem[0]": (0.25, 2),  # brackets of a name are no pattern
        "stem0": (0.25, 2),
        "stem[16]": (0.25, 8),
    }
    for name, found in expected.items():
        group = _group(64, name=name)
        assert (rules.floor_of(group), rules.divisor_of(group)) == found
    later = WidthRules(groups={"*": GroupRules(divisor=4), "conv": GroupRules(divisor=2)})
    assert later.step(_group(64)) == 2


def test_a_pattern_without_a_group_is_refused() -> None:
    rules = WidthRules(groups={"layer9.*": GroupRules(floor=0.5)})
    with pytest.raises(ValueError, match=r"has 'layer9\.\*', which matches no .* like conv, other"):
        rules.check([_group(4), _group(4, name="other")])


def test_a_divisor_larger_than_a_layer_is_refused() -> None:
    groups = [_group(64), _group(4, name="small"), _group(2, 2, name="tiny")]
    with pytest.raises(ValueError, match=r"divisor 8 of .*: small has 4 channels, .* 1 more group"):
        WidthRules(divisor=8).check(groups)
    own = {"small": GroupRules(divisor=4), "tiny": GroupRules(divisor=1)}
    WidthRules(divisor=8, groups=own).check(groups)
    # 9 channels, three at a time, hold 8 but no multiple of 8.
    with pytest.raises(ValueError, match="conv has 9 channels, 3 at a time, and no multiple"):
        WidthRules(divisor=8).check([_group(3, 3)])
    WidthRules(divisor=8).check([_group(8, 3)])


def test_rules_can_be_hashed() -> None:
    rules = WidthRules(groups={"a": GroupRules(divisor=2)})
    assert hash(rules) == hash(WidthRules(groups={"a": GroupRules(divisor=2)}))


@given(
    size=st.integers(1, 100),
    floor=st.floats(0.01, 1),
    divisor=st.integers(1, 16),
    channels_per_unit=st.integers(1, 4),
    data=st.data(),
)
def test_a_narrower_network_keeps_floors_and_divisors(
    size: int, floor: float, divisor: int, channels_per_unit: int, data: st.DataObject
) -> None:
    rules = WidthRules(floor=0.5, groups={"conv*": GroupRules(floor=floor, divisor=divisor)})
    group = _group(size, channels_per_unit)
    lowest, step = rules.lowest(group), rules.step(group)
    allowed = [w for w in range(lowest, size + 1) if w % step == 0 or w == size]
    narrower = _group(data.draw(st.sampled_from(allowed)), channels_per_unit)
    same = rules.for_narrower([group], [narrower])
    assert (same.step(narrower), same.lowest(narrower)) == (step, lowest)


def test_floors_of_groups_with_brackets_in_their_names_stay_their_own() -> None:
    groups = [_group(8, name="conv1"), _group(8, name="conv[1]")]
    rules = WidthRules(groups={"conv1": GroupRules(floor=0.5)})
    narrower = rules.for_narrower(groups, groups)
    assert [narrower.lowest(group) for group in groups] == [4, 1]
