"""Ids without text: never drawn, probability 0 in log-probs and entropies, nothing else changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.functional.vocabulary import Vocabulary, vocabulary
from lgrpo_lightning.policy import Lora, Policy, PolicyConfig, PolicySource, make_reference
from lgrpo_lightning.policy.verification import verify
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.testing import toy_group
from lgrpo_lightning.types import Credit, Prompt, TrainBatch
from tests.models import VOCABULARY, make_model, tokenizer
from tests.policy.test_policy import rows
from tests.runs import fit, rollouts, train_metrics

SIZE = len(VOCABULARY)
PADDED = SIZE + 20
HOLED = SIZE + 30
EXCLUDED = [*range(SIZE, HOLED - 1)]
SOME = ["llama", "llama_tied", "gemma2", "granite", "cohere", "gpt2"]


def holed_tokenizer() -> Any:
    """A token of its own far behind the others: between them are ids without text."""
    made = tokenizer()
    made.get_vocab = lambda: dict.fromkeys(VOCABULARY) | {w: i for i, w in enumerate(VOCABULARY)} | {"<x>": HOLED - 1}
    return made


def test_which_ids_have_a_text() -> None:
    assert vocabulary(tokenizer(), SIZE).complete
    assert vocabulary(tokenizer(), PADDED) == Vocabulary(total=PADDED, size=SIZE)
    assert vocabulary(tokenizer(), PADDED).excluded == list(range(SIZE, PADDED))
    assert vocabulary(tokenizer(), PADDED, ends=(PADDED - 2,)).excluded[-2:] == [PADDED - 3, PADDED - 1]
    assert vocabulary(holed_tokenizer(), HOLED).excluded == EXCLUDED
    assert vocabulary(tokenizer(), SIZE - 5).complete  # a tokenizer that is larger than the model


@pytest.mark.parametrize("layout", ["padded", "tree"])
@pytest.mark.parametrize("architecture", SOME)
@pytest.mark.parametrize("holes", [False, True])
def test_logprobs_are_those_without_the_ids(architecture: str, layout: Any, holes: bool, tmp_path: Path) -> None:
    folder = make_model(architecture, tmp_path, vocab_size=HOLED if holes else PADDED)
    policy = Policy(PolicyConfig(path=str(folder)))
    policy.restrict(holed_tokenizer() if holes else tokenizer())
    prompts, completions = rows()
    scores = policy(prompts, completions, temperature=0.7, layout=layout)
    verify(policy, prompts, completions)
    reference = make_reference(policy)(prompts, completions, temperature=0.7)
    assert (reference.logprobs - scores.logprobs).abs().max() < 1e-5
    for i, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        logits = policy.model(torch.tensor([p + c])).logits[0, len(p) - 1 : -1].double() / 0.7
        logits[:, policy.vocabulary.excluded] = -torch.inf
        expected = logits.log_softmax(-1)
        chosen = expected.gather(-1, torch.tensor(c)[:, None])[:, 0]
        torch.testing.assert_close(scores.logprobs[i, : len(c)].double(), chosen, atol=1e-5, rtol=0)
        entropy = -(expected.exp() * expected.nan_to_num(neginf=0)).sum(-1)
        torch.testing.assert_close(scores.entropies[i, : len(c)].double(), entropy, atol=1e-5, rtol=1e-5)
    scores.logprobs.sum().backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)
    if architecture in ("llama", "gemma2"):
        head = policy.model.get_output_embeddings().weight.grad
        unused = [i for i in policy.vocabulary.excluded if i >= SIZE]
        assert head is not None
        assert architecture == "gemma2" or bool(head[unused].eq(0).all())


def test_a_complete_vocabulary_changes_no_bit(model_folder: Callable[[str], Path]) -> None:
    plain, other = (Policy(PolicyConfig(path=str(model_folder("llama")))) for _ in range(2))
    other.restrict(tokenizer())
    found = []
    for policy in (plain, other):
        scores = policy(*rows(), temperature=0.9)
        scores.logprobs.square().sum().backward()
        found.append([scores.logprobs, scores.entropies, *(p.grad for p in policy.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=24, temperature=2.0),
        Sampling(max_new_tokens=24, top_k=30),
        Sampling(max_new_tokens=24, top_p=0.95, min_p=0.001),
        Sampling(max_new_tokens=24).greedy,
    ],
)
def test_they_are_never_drawn(sampling: Sampling, holes: bool, tmp_path: Path) -> None:
    folder = make_model("llama", tmp_path, vocab_size=HOLED if holes else PADDED, scale=2.0)
    policy = Policy(PolicyConfig(path=str(folder), lora=Lora(rank=2) if holes else None))
    with torch.no_grad():  # what is padded is what the model likes best
        policy.model.get_output_embeddings().weight[SIZE:] *= 3
    tokens = holed_tokenizer() if holes else tokenizer()
    source = PolicySource(policy, tokenizer=tokens, eos_token_ids=(1,), version=lambda: 0)
    sampler = TransformersSampler()
    sampler.setup(source)
    prompt = Prompt(uid="a", text="1+1=", token_ids=tuple(tokenizer()("1+1=")["input_ids"]))
    group = sampler.sample([prompt], 16, sampling=sampling, random_key=RandomKey(0, "train", 0))[0]
    drawn = {i for r in group.completions for i in r.token_ids}
    assert not drawn & set(policy.vocabulary.excluded)
    if not sampling.truncated and sampling.temperature:
        scores = policy([prompt.token_ids] * 16, group.sequences, temperature=sampling.temperature).logprobs
        for row, rollout in zip(scores, group.completions, strict=True):
            torch.testing.assert_close(row[: len(rollout)], rollout.logprobs, atol=1e-4, rtol=0)


def test_completions_with_one_are_refused(tmp_path: Path) -> None:
    policy = Policy(PolicyConfig(path=str(make_model("llama", tmp_path, vocab_size=PADDED))))
    policy.restrict(tokenizer())
    with pytest.raises(ValueError, match=rf"Completion 1 of a batch has the token id {SIZE + 3}"):
        policy.vocabulary.check([[4, 5], [4, SIZE + 3]])
    scores = policy([[3], [3]], [[4, 5], [4, SIZE + 3]]).logprobs  # where it was not drawn, nothing depends on it
    assert bool(scores.isfinite().all())
    torch.testing.assert_close(scores[0, 0], scores[1, 0])


def test_what_is_trained_may_not_have_one(tmp_path: Path) -> None:
    policy = Policy(PolicyConfig(path=str(make_model("llama", tmp_path, vocab_size=PADDED))))
    policy.restrict(tokenizer())
    group = toy_group([[4, 5], [4, SIZE + 3]])
    zeros = torch.ones(2, 2)
    data = TrainBatch.from_groups([group], [Credit(advantages=zeros, weights=zeros)])
    with pytest.raises(ValueError, match=rf"Completion 1 of a batch has the token id {SIZE + 3}"):
        policy.vocabulary.check(data.trained_ids)
    rollout = replace(group.completions[1], mask=torch.tensor([True, False]))
    told = replace(group, completions=(group.completions[0], rollout))
    data = TrainBatch.from_groups([told], [Credit(advantages=zeros, weights=zeros)])
    policy.vocabulary.check(data.trained_ids)


def test_a_run_says_it_once_and_never_draws_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_model("llama", tmp_path / "model", vocab_size=PADDED)
    run = fit(
        tmp_path / "run",
        model__policy__path=folder,
        model__objective__kl_coef=0.1,
        model__sampling__temperature=2.0,
        model__policy__extra_eos_tokens='["z"]',
        trainer__limit_val_batches=0,
    )
    said = capsys.readouterr().out
    assert said.count(f"20 of the model's {PADDED} token ids have no text in the tokenizer") == 1
    line = "Completions end at <eos> (1: generation config, tokenizer), z (43: policy.extra_eos_tokens)."
    assert said.count(line) == 1
    table = rollouts(run)
    assert max(max(ids) for ids in table["token_ids"]) < SIZE
    ended = table[table["finish_reason"] == "stop"]["token_ids"]
    assert {ids[-1] for ids in ended} <= {1, 43}
    assert all(not set(ids[:-1]) & {1, 43} for ids in table["token_ids"])
    assert train_metrics(run)["kl"].iloc[0] == pytest.approx(0, abs=1e-5)
    assert float(train_metrics(run)["entropy"].max()) < torch.tensor(SIZE).log()
