from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from deploy.eval_mode import inference


@pytest.mark.parametrize("fails", [False, True])
def test_networks_get_their_mode_back(
    training_network: nn.Module, deploy_network: nn.Module, images: Tensor, fails: bool
) -> None:
    training_network.train()
    training_network.stages[1].eval()
    networks = (training_network, deploy_network)
    flags = [[module.training for module in network.modules()] for network in networks]
    statistics = copy.deepcopy(training_network.state_dict())

    def run() -> None:
        with inference(*networks):
            expected, found = (network(images) for network in networks)
            assert not expected.requires_grad
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            if fails:
                raise RuntimeError("broken")

    if fails:
        with pytest.raises(RuntimeError, match="broken"):
            run()
    else:
        run()
    assert [[m.training for m in network.modules()] for network in networks] == flags
    assert torch.is_grad_enabled()
    after = training_network.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in statistics.items())
