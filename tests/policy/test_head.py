"""The head on hidden states is the model's own."""

import pytest
import torch

from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.verification import verify
from tests.architectures.trial import write_model


def test_a_model_may_have_tokens_that_it_never_draws(tmp_path) -> None:
    write_model("phi", tmp_path)
    policy = Policy(PolicyConfig(path=str(tmp_path)))
    policy.model.lm_head.bias.data[7] = -torch.inf
    rows = [[11, 12, 13]] * 2, [[14, 15], [14, 16]]
    policy.choose_layout(*rows)
    verify(policy, *rows, temperature=1.0, beside=rows)
    assert policy.layout in policy.verified

    policy.verified.clear()
    head = policy.model.lm_head.forward
    policy.model.lm_head.forward = lambda hidden: head(hidden) + hidden.shape[1]
    with pytest.raises(ValueError, match="logits from hidden states differ from the model's own"):
        verify(policy, *rows, temperature=1.0)
