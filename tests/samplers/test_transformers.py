"""The sampler on real models: right distribution, right log-probs, independent of the batch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.samplers.decoding import Decoding
from lgrpo_lightning.types import Group, Prompt
from tests.models import tokenizer

RANDOM_KEY = RandomKey(0, "train", 0)
PROMPTS = ["1+1=", "12+7+3=", "a", "4-2= and so on"]


def prompts(texts: list[str] = PROMPTS) -> list[Prompt]:
    tok = tokenizer()
    return [Prompt(uid=str(i), text=t, token_ids=tuple(tok(t)["input_ids"])) for i, t in enumerate(texts)]


def sampler(folder: Path, **options: int) -> tuple[TransformersSampler, Policy]:
    policy = Policy(PolicyConfig(path=str(folder)))
    made = TransformersSampler(**options)
    made.setup(PolicySource(policy, tokenizer=tokenizer(), eos_token_ids=(1,), version=lambda: 0))
    return made, policy


def ids(groups: list[Group]) -> list[list[list[int]]]:
    return [g.sequences for g in groups]


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "gpt2", "mistral", "granite"])
def test_logprobs_equal_a_teacher_forced_pass(architecture: str, model_folder: Callable[[str], Path]) -> None:
    sample, policy = sampler(model_folder(architecture))
    for sampling in (Sampling(max_new_tokens=20), Sampling(max_new_tokens=20, temperature=0.7)):
        groups = sample.sample(prompts(), 3, sampling=sampling, random_key=RANDOM_KEY)
        for group in groups:
            scores = policy([group.prompt.token_ids] * 3, group.sequences, temperature=sampling.temperature).logprobs
            for row, rollout in zip(scores, group.completions, strict=True):
                torch.testing.assert_close(row[: len(rollout)], rollout.logprobs, atol=1e-4, rtol=0)


def test_completions_do_not_depend_on_the_batch(model_folder: Callable[[str], Path]) -> None:
    sample, _ = sampler(model_folder("llama"))
    one_by_one, _ = sampler(model_folder("llama"), max_batch_tokens=1)
    sampling = Sampling(max_new_tokens=24)
    together = sample.sample(prompts(), 4, sampling=sampling, random_key=RANDOM_KEY)
    assert ids(together) == ids(one_by_one.sample(prompts(), 4, sampling=sampling, random_key=RANDOM_KEY))
    backwards = sample.sample(prompts()[::-1], 4, sampling=sampling, random_key=RANDOM_KEY)
    assert ids(together) == ids(backwards)[::-1]
    alone = sample.sample(prompts()[1:2], 4, sampling=sampling, random_key=RANDOM_KEY)
    assert ids(together)[1] == ids(alone)[0]
    more = sample.sample(prompts(), 6, sampling=sampling, random_key=RANDOM_KEY)
    assert [g[:4] for g in ids(more)] == ids(together)


@pytest.mark.parametrize(
    ("budget", "sizes"), [(1, [1] * 6), (33, [2, 2, 2]), (38, [2, 2, 2]), (39, [3, 3]), (999, [6])]
)
def test_batches_fill_the_token_budget(budget: int, sizes: list[int]) -> None:
    """Of rows that are as wide as the longest prompt in them and the limit: 13 here, then 11."""
    asked = [Prompt(uid=str(n), text="?", token_ids=(1,) * n) for n in (1, 3)]
    batches = list(TransformersSampler(max_batch_tokens=budget)._make_batches(asked, 3, 10))
    assert list(map(len, batches)) == sizes
    assert [job for batch in batches for job in batch] == [(p, m) for p in (1, 0) for m in range(3)]


def test_padding_is_judged_by_two_tokens(model_folder: Callable[[str], Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama"))))
    short, long = (p.token_ids for p in prompts(["a", "12+7+3="]))
    with policy.generation_model() as model:
        decoding = Decoding(model, tokenizer(), (1,), Sampling())
        both = decoding._compute_first_logits([short, long])
        for ids, found in zip((short, long), both, strict=True):
            logits = model(torch.tensor([[*ids, ids[-1]]])).logits[0, -2:]
            torch.testing.assert_close(found, logits.flatten(), atol=1e-4, rtol=0)


def test_streams_differ(model_folder: Callable[[str], Path]) -> None:
    sample, _ = sampler(model_folder("llama"))
    sampling = Sampling(max_new_tokens=12)
    drawn = [
        str(ids(sample.sample(prompts(), 2, sampling=sampling, random_key=RandomKey(0, "train", n)))) for n in (0, 1, 0)
    ]
    assert drawn[0] == drawn[2] != drawn[1]


def test_greedy_equals_generate(model_folder: Callable[[str], Path]) -> None:
    sample, policy = sampler(model_folder("llama"))
    sampling = Sampling(max_new_tokens=20).greedy
    for group in sample.sample(prompts(), 1, sampling=sampling, random_key=RANDOM_KEY):
        with policy.generation_model() as model:
            expected = model.generate(
                torch.tensor([group.prompt.token_ids]), do_sample=False, max_new_tokens=20, eos_token_id=1
            )
        assert group.sequences[0] == expected[0, len(group.prompt.token_ids) :].tolist()


def test_frequencies_equal_the_models_distribution(model_folder: Callable[[str], Path]) -> None:
    sample, policy = sampler(model_folder("llama"))
    prompt = prompts(["1+1="])
    group = sample.sample(prompt, 4000, sampling=Sampling(max_new_tokens=1, temperature=1.5), random_key=RANDOM_KEY)[0]
    with policy.generation_model() as model:
        logits = model(torch.tensor([prompt[0].token_ids])).logits[0, -1] / 1.5
    seen = torch.bincount(torch.tensor([s[0] for s in group.sequences]), minlength=len(logits)) / 4000
    assert (seen - logits.softmax(-1)).abs().max() < 0.03


def test_completions_end_at_any_end_of_sequence_or_stop_string(model_folder: Callable[[str], Path]) -> None:
    sample, policy = sampler(model_folder("llama"))
    sample.setup(PolicySource(policy, tokenizer=tokenizer(), eos_token_ids=(1, 13), version=lambda: 5))
    sampling = Sampling(max_new_tokens=40, temperature=2.0, stop=("a", "5"))
    groups = sample.sample(prompts(), 16, sampling=sampling, random_key=RANDOM_KEY)
    reasons = set()
    for rollout in (r for g in groups for r in g.completions):
        ended = rollout.token_ids[-1] in (1, 13) or any(s in rollout.text for s in ("a", "5"))
        assert (rollout.finish_reason == "stop") == ended
        assert not set(rollout.token_ids[:-1]) & {1, 13}
        assert not any(s in rollout.text[: rollout.text_ends[-2]] for s in ("a", "5")) if len(rollout) > 1 else True
        assert rollout.weight_version == 5
        assert bool(rollout.mask.all())
        reasons.add(rollout.finish_reason)
    assert "stop" in reasons


def test_truncated_logprobs_are_those_of_the_truncated_distribution(
    model_folder: Callable[[str], Path],
) -> None:
    sample, _ = sampler(model_folder("llama"))
    group = sample.sample(prompts()[:1], 8, sampling=Sampling(max_new_tokens=8, top_k=1), random_key=RANDOM_KEY)[0]
    assert all(r.logprobs.abs().max() < 1e-6 for r in group.completions)
    assert len({r.token_ids for r in group.completions}) == 1
