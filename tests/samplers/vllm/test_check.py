"""The comparison of the engine's log-probs with the policy's."""

from pathlib import Path

import pytest
import torch

from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.samplers.vllm.check import check_completions, make_probe_prompt, measure_difference
from lgrpo_lightning.samplers.vllm.transport import Output, VLLMError
from tests.models import tokenizer
from tests.samplers.vllm.engines import ChangingPolicy, prompts, random_key


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=12),
        Sampling(max_new_tokens=12, temperature=0.6),
        Sampling(max_new_tokens=12, top_k=5, min_p=0.01),
        Sampling(max_new_tokens=12, top_p=0.9),
        Sampling(max_new_tokens=12).greedy,
    ],
)
def test_right_log_probs_pass_and_wrong_ones_do_not(sampling: Sampling, tmp_path: Path) -> None:
    policy = ChangingPolicy("llama", tmp_path)
    sampler = TransformersSampler()
    sampler.setup(policy.source)
    group = sampler.sample(prompts(["1+1="]), 1, sampling=sampling, random_key=random_key())[0]
    rollout = group.completions[0]
    found = Output(token_ids=rollout.token_ids, logprobs=tuple(rollout.logprobs.tolist()), finish_reason="length")
    drawn = [(group.prompt.token_ids, found)]
    common = {"tolerance": 1e-3, "peer": "The engine", "version": 3}
    with policy.policy.generation_model() as model:
        assert check_completions(model, drawn, sampling, **common) < 1e-4  # type: ignore[arg-type]
    policy.update()
    with policy.policy.generation_model() as model, pytest.raises(VLLMError) as error:
        check_completions(model, drawn, sampling, **common)  # type: ignore[arg-type]
    text = str(error.value)
    for part in (
        "The engine",
        "version 3",
        "0.001 is allowed",
        "Engine: [",
        "policy: [",
        "prefix cache",
        "head",
    ):
        assert part in text


def test_difference_of_truncated_distributions() -> None:
    inf = torch.inf
    assert measure_difference(torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.0, -1.5, -inf])) == 0.25
    assert measure_difference(torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.0, -inf, -inf])) == inf


def test_the_probe_has_the_length_asked_for() -> None:
    ids = make_probe_prompt(tokenizer(), length=65, fallback=[1])
    assert len(ids) == 65
    assert len(set(ids)) > 10
