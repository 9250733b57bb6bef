"""Special tokens and ids without text, through vLLM: the same text and stops as with the other sampler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
from tests.models import make_model, tokenizer
from tests.samplers.vllm.engines import ChangingPolicy, RealServer, needs_vllm, prompts, random_key

pytestmark = needs_vllm
SPECIAL = ("<think>", "</think>", "<|im_end|>")
WITH_TEXT = 47


class Padded(ChangingPolicy):
    """A policy with special tokens and 17 ids that have no text."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_model("llama_tied", folder, special=SPECIAL, scale=1.0, vocab_size=WITH_TEXT + 17)
        self.policy = Policy(PolicyConfig(path=str(folder)))
        self.version = 0
        self.source = PolicySource(
            self.policy,
            tokenizer=tokenizer(*SPECIAL),
            eos_token_ids=(1,),
            version=lambda: self.version,
        )


@pytest.fixture(scope="module", params=["in process", "server"])
def sampling_from(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    from lgrpo_lightning.samplers import VLLMSampler
    from lgrpo_lightning.samplers.vllm.options import EngineOptions, ServerOptions
    from tests.samplers.vllm.engines import KEY

    folder = tmp_path_factory.mktemp("padded")
    policy = Padded(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_API_KEY", KEY)
        server = RealServer(policy.folder, folder).start() if request.param == "server" else None
        options = ServerOptions(urls=[server.url] if server else [])
        sampler = VLLMSampler(EngineOptions(max_num_seqs=64), options, check_every=1)
        sampler.setup(policy.source)
        yield sampler, policy
        sampler.teardown()
        if server:
            server.kill()


def test_special_tokens_and_padded_vocabularies(sampling_from: tuple) -> None:
    sampler, policy = sampling_from
    sampler.sync(policy.update())
    texts = set()
    for stop in ("<|im_end|>", "5<|im_end|>", "<think>\n", "think>"):
        sampling = Sampling(max_new_tokens=40, temperature=2.0, stop=(stop,))
        groups = sampler.sample(prompts(), 40, sampling=sampling, random_key=random_key())
        for rollout in (r for g in groups for r in g.completions):
            assert max(rollout.token_ids) < WITH_TEXT
            text = tokenizer(*SPECIAL).decode([i for i in rollout.token_ids if i > 1])
            assert rollout.text == text
            assert (rollout.finish_reason == "stop") == (stop in text or rollout.token_ids[-1] == 1)
            texts.add(stop if stop in text else "")
        scores = [policy.policy([g.prompt.token_ids] * len(g), g.sequences, temperature=2.0).logprobs for g in groups]
        for group, rows in zip(groups, scores, strict=True):
            for row, rollout in zip(rows, group.completions, strict=True):
                assert (row[: len(rollout)] - rollout.logprobs).abs().max() < 1e-3
    assert texts >= {"<|im_end|>", "think>"}
