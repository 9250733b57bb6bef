"""Log-probs of the policy against the model's own logits, and invariances of its layout."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.packing import pack_groups, pack_padded
from lgrpo_lightning.policy.verification import verify
from tests.models import EXTRA, SMALL

Rows = tuple[list[list[int]], list[list[int]]]


def rows(count: int = 5, seed: int = 0) -> Rows:
    rng = random.Random(seed)
    draw = lambda low, high: [rng.randrange(3, SMALL["vocab_size"]) for _ in range(rng.randint(low, high))]  # noqa: E731
    return [draw(1, 12) for _ in range(count)], [draw(1, 15) for _ in range(count)]


@pytest.mark.parametrize("architecture", sorted(EXTRA))
def test_logprobs_equal_the_models_logits(architecture: str, model_folder: Callable[[str], Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder(architecture))))
    prompts, completions = rows()
    scores = policy(prompts, completions, temperature=0.7)
    verify(policy, prompts[:1], completions[:1])
    for i, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        logits = policy.model(torch.tensor([p + c])).logits[0, len(p) - 1 : -1].double() / 0.7
        expected = logits.log_softmax(-1)
        chosen = expected.gather(-1, torch.tensor(c)[:, None])[:, 0]
        torch.testing.assert_close(scores.logprobs[i, : len(c)].double(), chosen, atol=1e-5, rtol=0)
        entropy = -(expected.exp() * expected).sum(-1)
        torch.testing.assert_close(scores.entropies[i, : len(c)].double(), entropy, atol=1e-5, rtol=1e-5)
        assert scores.logprobs[i, len(c) :].eq(0).all()


def gradients(policy: Policy, prompts: list[list[int]], completions: list[list[int]]) -> list[torch.Tensor]:
    policy.zero_grad()
    policy(prompts, completions).logprobs.square().sum().backward()
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None]


@pytest.mark.parametrize("options", [{"logprob_chunk_mb": 1}, {"gradient_checkpointing": True}])
def test_options_change_no_gradient(
    options: dict[str, int], model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(model_folder("llama"))
    plain, other = Policy(PolicyConfig(path=folder)), Policy(PolicyConfig(path=folder, **options))  # type: ignore[arg-type]
    if "logprob_chunk_mb" in options:
        monkeypatch.setattr(type(other), "logprob_chunk", 7)
    for a, b in zip(gradients(plain, *rows()), gradients(other, *rows()), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_padding_and_order_change_nothing(model_folder: Callable[[str], Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama"))))
    prompts, completions = rows()
    together = policy(prompts, completions).logprobs
    for i in range(len(prompts)):
        alone = policy([prompts[i]], [completions[i]]).logprobs[0]
        torch.testing.assert_close(together[i, : len(alone)], alone, atol=1e-5, rtol=0)


def test_two_backward_passes_are_bit_identical() -> None:
    """Gathering more than 40,000 elements with two threads: index_select adds in a fixed order."""
    from lgrpo_lightning.policy.layout import make_padded_layout

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        layout = make_padded_layout([[1, 2]] * 400, [[3] * 150] * 400, pad=0)
        scores = torch.randn(len(layout.targets), requires_grad=True)
        hidden = torch.randn(400 * 152, 8, requires_grad=True)
        upstream = torch.randn(layout.gather.shape)
        found = []
        for _ in range(5):
            scores.grad = hidden.grad = None
            (layout.spread(scores) * upstream).sum().backward()
            hidden.index_select(0, layout.predictors).pow(3).sum().backward()
            found.append((scores.grad, hidden.grad))
        assert all(torch.equal(a, found[0][0]) and torch.equal(b, found[0][1]) for a, b in found)
    finally:
        torch.set_num_threads(threads)


def test_packs_cover_every_row_within_the_budget() -> None:
    lengths = [random.Random(i).randint(1, 50) for i in range(60)]
    packs = pack_padded(lengths, 120)
    assert sorted(i for p in packs for i in p) == list(range(60))
    for pack in packs:
        assert len(pack) == 1 or max(lengths[i] for i in pack) * len(pack) <= 120
    assert max(lengths) == lengths[packs[0][0]]


def test_an_unknown_transformation_of_the_logits_is_refused(model_folder: Callable[[str], Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("granite"))))
    embeddings = policy.model.get_output_embeddings()
    handle = embeddings.register_forward_hook(lambda m, i, o: o * 2 if i[0].dim() == 3 else o)
    with pytest.raises(ValueError, match="differ from the model's own"):
        verify(policy, [[3, 4]], [[5, 6]])
    handle.remove()
    verify(policy, [[3, 4]], [[5, 6]])


def test_dropout_is_off_unless_asked(model_folder: Callable[[str], Path]) -> None:
    folder = str(model_folder("gpt2"))
    quiet, noisy = Policy(PolicyConfig(path=folder)), Policy(PolicyConfig(path=folder, dropout=0.5))
    assert torch.equal(quiet(*rows()).logprobs, quiet(*rows()).logprobs)
    assert not torch.equal(noisy(*rows()).logprobs, noisy(*rows()).logprobs)


def test_the_reference_stays_as_it_was(model_folder: Callable[[str], Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama"))))
    reference = policy.copy_frozen()
    before = reference(*rows()).logprobs
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1)
    assert torch.equal(reference(*rows()).logprobs, before)
    assert not any(p.requires_grad for p in reference.parameters())


@pytest.mark.parametrize("megabytes", [1, 4])
def test_a_chunk_of_logits_fits_into_its_memory(megabytes: int, model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama")), logprob_chunk_mb=megabytes))
    vocabulary = policy.model.config.vocab_size
    assert policy.logprob_chunk * 4 * vocabulary <= megabytes * 2**20 < (policy.logprob_chunk + 1) * 4 * vocabulary


def test_a_pass_of_trees_may_just_fill_its_budget() -> None:
    prompts, completions = [(1, 2)] * 3, [(5, 6), (7, 8), (5, 6, 9)]
    for budget, packs in ((5, [[0, 2], [1]]), (6, [[0, 2], [1]]), (7, [[0, 2, 1]])):
        assert [sorted(p) for p in pack_groups(prompts, completions, budget)] == [sorted(p) for p in packs]
