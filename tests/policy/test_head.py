"""The head as one wide product is the head."""

import pytest
import torch

from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.head import WIDE, compute_logits, find_backbone, takes_wide_product
from lgrpo_lightning.policy.loading import load_model
from lgrpo_lightning.policy.verification import verify
from tests.architectures.trial import write_model


@pytest.mark.parametrize("family", ["llama", "cohere", "gemma2", "granite", "phi"])  # phi has a bias
def test_the_wide_product_gives_the_models_logits(family, tmp_path) -> None:
    write_model(family, tmp_path)
    model = load_model(PolicyConfig(path=str(tmp_path))).eval()
    ids = torch.arange(2 * WIDE)[None] + 5
    with torch.no_grad():
        hidden = find_backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[0]
        wide = compute_logits(model, hidden, wide=True)
        assert wide.stride(0) == 1
        torch.testing.assert_close(wide, model(input_ids=ids, use_cache=False).logits[0], atol=1e-5, rtol=1e-5)


def test_where_it_is_taken(tmp_path) -> None:
    write_model("llama", tmp_path)
    model = load_model(PolicyConfig(path=str(tmp_path)))
    assert takes_wide_product(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert not takes_wide_product(model)
    model.lm_head = torch.nn.Sequential(model.lm_head)
    assert not takes_wide_product(model)


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
