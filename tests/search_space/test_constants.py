import torch

from search_space import Constant


def test_copies_stay_where_they_are():
    """What has been recorded reads the same memory for good."""
    value = torch.arange(3.0)
    constant = Constant(value)
    elsewhere = constant.on(torch.device("meta"))
    assert constant.on(value.device) is value
    assert constant.on(torch.device("meta")) is elsewhere
    assert elsewhere.device.type == "meta"


def test_a_copy_made_while_evaluating_can_be_trained_with():
    constant = Constant(torch.arange(3.0))
    with torch.inference_mode():
        copy = constant.on(torch.device("meta"))
    assert not copy.is_inference()
