import torch
from exactness import check_exact, check_gradients, slice_at_random
from hypothesis import event, given
from hypothesis import strategies as st
from random_networks import Network, Step, descriptions


@given(description=descriptions, seed=st.integers(0, 2**16))
def test_gated_and_sliced_networks_agree(
    description: tuple[list[Step], list[tuple[int, int]]], seed: int
) -> None:
    torch.manual_seed(seed)
    network, x = Network(*description), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    try:
        sliced = slice_at_random(network, x, seed)
    except ValueError as error:
        if "is searchable" not in str(error):
            raise
        event("nothing searchable")
        return
    check_exact(sliced, x)
    check_gradients(sliced, x)
