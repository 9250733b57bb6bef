"""A compiled step over a cache of fixed size draws what the plain one draws."""

import pytest
import torch

from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.samplers import compiled
from lgrpo_lightning.samplers.compiled import CompiledDecoding
from lgrpo_lightning.samplers.decoding import Decoding, Request
from tests.architectures.trial import PROMPTS, Trial, write_model

TOP_K = {"temperature": 0.7, "top_k": 9}
REQUESTS = [Request(prompt=i // 3, key=i * 7919) for i in range(6)]


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        pytest.param("gemma2", TOP_K, marks=pytest.mark.long),
        *(pytest.param(f, {}, marks=pytest.mark.slow) for f in ("qwen3", "gemma2", "gpt2", "mistral")),
        *(pytest.param(f, TOP_K, marks=pytest.mark.slow) for f in ("llama", "qwen3", "gpt2", "mistral")),
    ],
)
def test_the_same_draws(family, options, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", {"backend": "eager"})
    compiled.compile_step.cache_clear()
    write_model(family, tmp_path)
    policy = Policy(PolicyConfig(path=str(tmp_path)))
    sampling = Sampling(max_new_tokens=12, **options)
    sizes = set()
    with policy.generation_model() as model:
        plain = Decoding(model, None, tuple(range(1, 6)), sampling).run(PROMPTS, REQUESTS)
        decoding = CompiledDecoding(model, None, tuple(range(1, 6)), sampling)
        select = decoding._select
        monkeypatch.setattr(decoding, "_select", lambda rows: (sizes.add(len(rows)), select(rows)))
        got = decoding.run(PROMPTS, REQUESTS)
    for one, other in zip(got, plain, strict=True):
        assert one.token_ids == other.token_ids
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-4, rtol=0)
    assert len({len(d.token_ids) for d in plain}) > 1
    assert sizes <= {6, 3, 1}


@pytest.mark.slow
def test_really_compiled(tmp_path) -> None:
    torch._dynamo.reset()
    compiled.compile_step.cache_clear()
    write_model("llama", tmp_path)
    policy = Policy(PolicyConfig(path=str(tmp_path)))
    with policy.generation_model() as model:
        plain, got = (
            kind(model, None, (59,), Sampling(max_new_tokens=8)).run(PROMPTS, REQUESTS)
            for kind in (Decoding, CompiledDecoding)
        )
    assert [d.token_ids for d in got] == [d.token_ids for d in plain]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1


def test_states_of_another_kind_are_refused(tmp_path) -> None:
    write_model("qwen3_next", tmp_path)
    with (
        Trial(tmp_path).policy.generation_model() as model,
        pytest.raises(ValueError, match="compile is true, but"),
    ):
        CompiledDecoding(model, None, (1,), Sampling(max_new_tokens=4)).run(PROMPTS, REQUESTS)
