"""``policy.weights: random`` and ``policy.suppress_tokens``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lgrpo_lightning import cli
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.loading import load_tokenizer
from tests.docs.markdown import ROOT
from tests.runs import checkpoint, rollouts

TOY = ROOT / "configs" / "paper_toy.yaml"


def weights(seed: int, monkeypatch: pytest.MonkeyPatch, path: str = "lgrpo:toy") -> torch.Tensor:
    monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
    policy = Policy(PolicyConfig(path=path, weights="random"))
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


def test_they_are_the_seeds_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    first = weights(0, monkeypatch)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)  # no other draw changes
    torch.manual_seed(6)
    assert torch.equal(weights(0, monkeypatch), first)
    assert not torch.equal(weights(1, monkeypatch), first)


def test_they_are_the_models_own_initialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    model = Policy(PolicyConfig(path="lgrpo:toy", weights="random")).model
    assert model.transformer.wte.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(model.transformer.ln_f.weight, torch.ones(64))
    assert model.training
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def test_a_folder_with_weights_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    pretrained = Policy(PolicyConfig()).model.model.embed_tokens.weight
    random = Policy(PolicyConfig(weights="random")).model.model.embed_tokens.weight
    assert not torch.equal(pretrained, random)


def toy(root: Path, *more: str) -> Path:
    words = ["fit", f"--config={TOY}", "--trainer.max_steps=3", f"--trainer.default_root_dir={root}", *more]
    assert cli.main(words) == 0
    return root


def test_suppressed_tokens_are_never_drawn_and_have_no_probability(tmp_path: Path) -> None:
    table = rollouts(toy(tmp_path))
    assert set(table["completion"].str.len()) == {4}
    assert set("".join(table["completion"])) == {"L", "R"}
    config = PolicyConfig(path="lgrpo:toy", weights="random", suppress_tokens=["<pad>", 1, "<unk>", "^"])
    policy = Policy(config)
    policy.restrict(load_tokenizer(config), (1,))
    scores = policy([(3,)] * 2, [(4,), (5,)])
    assert torch.logsumexp(scores.logprobs[:, 0], 0).item() == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match=r"token id 3, which policy.suppress_tokens names .*: its probability is 0"):
        policy.vocabulary.check([(3,)])


@pytest.mark.long
def test_a_run_with_random_weights_resumes_validates_and_exports(tmp_path: Path) -> None:
    whole = toy(tmp_path / "whole", "--trainer.max_steps=4", "--model.objective.kl_coef=0.1")
    cut = toy(tmp_path / "cut", "--trainer.max_steps=2", "--model.objective.kl_coef=0.1")
    toy(cut, "--trainer.max_steps=4", "--model.objective.kl_coef=0.1", "--ckpt_path=last")
    for name, tensor in checkpoint(whole)["state_dict"].items():  # type: ignore[attr-defined]
        assert torch.equal(tensor, checkpoint(cut)["state_dict"][name])  # type: ignore[index]
    assert cli.main(["export", str(whole), str(tmp_path / "out")]) == 0
    from transformers import AutoModelForCausalLM

    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    held = checkpoint(whole)["state_dict"]
    assert torch.equal(exported["transformer.wte.weight"], held["policy.model.transformer.wte.weight"])  # type: ignore[index]
