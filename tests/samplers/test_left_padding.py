"""Whether a model reads a prompt otherwise where it is padded: beyond rounding, which is larger in half precision."""

from __future__ import annotations

import pytest
import torch

from lgrpo_lightning.samplers.left_padding import takes_left_padding


class Model:
    """What is looked at of a model."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


@pytest.mark.parametrize(
    ("dtype", "difference", "taken"),
    [
        (torch.float32, 0.0, True), (torch.float32, 5e-4, True), (torch.float32, 0.01, False),
        (torch.bfloat16, 0.01, True), (torch.bfloat16, 0.2, False),
    ],
)  # fmt: skip
def test_the_difference_is_one_of_rounding(
    dtype: torch.dtype, difference: float, taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model, seen = Model(dtype), list[int]()

    def logits(prompts: list[list[int]]) -> torch.Tensor:
        seen.extend(map(len, prompts))
        answer = torch.tensor([[-1.0, 1.0, torch.inf]] * len(prompts))
        return answer + (difference * 2**0.5 if len(prompts) > 1 else 0)  # the deviation of -1 and 1 is √2

    prompts = [(1, 2), (1,), (1, 2, 3)]
    with caplog.at_level("INFO"):
        assert takes_left_padding(model, prompts, logits) is taken
    assert ("Model reads a prompt otherwise where it is padded" in caplog.text) is not taken
    assert seen == [1, 1, 3]
    assert takes_left_padding(model, prompts, logits) is taken
    assert len(seen) == 3  # it is remembered
