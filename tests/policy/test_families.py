"""Hybrid, recurrent, multimodal and otherwise unusual families: they sample, train, export and take adapters.

``python -m tests.architectures`` tries all families there are, in more time.
"""

from pathlib import Path

import pytest

from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy.loading import load_model
from lgrpo_lightning.policy.verification import verify
from lgrpo_lightning.types import pad
from tests.architectures.trial import COLUMNS, Trial, drawn, write_model

FAMILIES = (
    "qwen3_5", "qwen3_next", "lfm2", "granitemoehybrid", "nemotron_h", "jamba", "bamba", "zamba2", "falcon_h1",
    "olmo_hybrid", "kimi_linear", "mamba", "mamba2", "falcon_mamba", "falcon", "llama4_text", "nemotron", "gemma4_text",
    "deepseek_v2", "deepseek_v3", "gpt_oss", "phimoe", "qwen3_moe", "gemma3", "qwen3_vl", "llama4", "mistral3",
    "bart", "deepseek_v4", "qwen4_exp_text",
)  # fmt: skip

QUICK = ("qwen3_5", "granitemoehybrid", "mamba2", "falcon", "deepseek_v3", "gpt_oss", "gemma3")
"""Linear attention, hybrid with experts, recurrent, another rotary layout, latent attention, sinks, images."""


def trial_of(family: str, folder: Path) -> Trial:
    write_model(family, folder / "model")
    return Trial(folder / "model")


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def test_everything(family: str, tmp_path: Path) -> None:
    trial = trial_of(family, tmp_path)
    answers = {column: method(trial) for column, method in COLUMNS.items()}
    layout = answers.pop("trees")
    assert not [f"{c}: {a}" for c, a in answers.items() if a.startswith("no")]
    assert "differ by" not in layout


def test_verify_refuses_what_was_sampled_from_another_distribution(tmp_path: Path) -> None:
    policy = trial_of("recurrent_gemma", tmp_path).policy
    prompts, found = drawn(policy)
    completions = [d.token_ids for d in found][:3]
    sampled = pad([d.logprobs for d in found[:3]], max(map(len, completions)))
    with pytest.raises(ValueError, match="log-probs of sampling differ"):
        verify(policy, prompts[:3], completions[:3], sampled=sampled)


def test_a_model_without_a_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="RwkvForCausalLM keeps what it has read in no cache"):
        drawn(trial_of("rwkv", tmp_path).policy)


def test_a_model_with_a_cache_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MiniMaxForCausalLM cannot be sampled from with text and a cache"):
        drawn(trial_of("minimax", tmp_path).policy)


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="RobertaForCausalLM is bidirectional"):
        trial_of("roberta", tmp_path).sampled()


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an encoder-decoder model"):
        assert trial_of("t5gemma2", tmp_path).policy


def test_trees_that_are_asked_for_are_not_given_up(tmp_path: Path) -> None:
    policy = trial_of("nemotron", tmp_path).load(layout="tree")
    prompts, found = drawn(policy)
    completions = [d.token_ids for d in found]
    policy.choose_layout(prompts, completions)
    with pytest.raises(ValueError, match=r"Set model\.policy\.layout: padded"):
        verify(policy, prompts[:3], completions[:3])


def test_what_text_does_not_go_through_is_kept(tmp_path: Path) -> None:
    write_model("gemma3", tmp_path)
    model = load_model(PolicyConfig(path=str(tmp_path)))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    kept = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert all("vision" in n or "projector" in n for n in kept)
    assert kept
    assert not [n for n in trained if "vision" in n or "projector" in n]


def test_log_probs_of_another_sampler_are_warned_of(tmp_path: Path) -> None:
    policy = trial_of("llama", tmp_path).policy
    prompts, found = drawn(policy)
    completions = [d.token_ids for d in found]
    sampled = pad([d.logprobs - 1 for d in found], max(map(len, completions)))
    with pytest.warns(UserWarning, match="The sampler's log-probs are not the policy's: LlamaForCausalLM"):
        verify(policy, prompts, completions, sampled=sampled, own=False)
