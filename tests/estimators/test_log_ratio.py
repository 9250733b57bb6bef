"""log π/π_ref as a process reward: the reference as a teacher with a negative coefficient."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lgrpo_lightning.estimators import BlendedGRPO
from lgrpo_lightning.rewards import TeacherLogprobs
from lgrpo_lightning.testing import toy_group, toy_tree
from tests.reference import naive
from tests.reference.naive_process import mean_std
from tests.runs import fit, train_metrics

SEQUENCES = [[5, 6, 7, 1], [5, 8], [5, 6, 9]]


def test_the_advantage_is_that_of_the_definition(model_folder: Callable[..., Path]) -> None:
    """a(i) + c · Σ of later tokens' normalised log π/π_ref; π is a model whose weights are larger by a tenth."""
    folder = model_folder("llama")
    reference, policy = (AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.1)
    group = toy_group(SEQUENCES)
    prompt = replace(group.prompt, token_ids=(3, 4))
    with torch.no_grad():
        now, before = (
            [
                [
                    float(model(input_ids=torch.tensor([[3, 4, *y[:t]]])).logits[0, -1].log_softmax(-1)[token])
                    for t, token in enumerate(y)
                ]
                for y in SEQUENCES
            ]
            for model in (policy, reference)
        )
    drawn = tuple(replace(c, logprobs=torch.tensor(p)) for c, p in zip(group.completions, now, strict=True))
    group = replace(group, prompt=prompt, completions=drawn)
    tree = toy_tree(group)
    told = TeacherLogprobs(str(folder), coefficient=-1.0).score_batch([group], [tree])[0]
    outcome = [1.0, 0.0, 0.5]
    found = BlendedGRPO(coefficient=0.3).estimate(replace(told, outcome=torch.tensor(outcome)), tree).advantages
    scores = [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(now, before, strict=True)]
    mean, std = mean_std([s for row in scores for s in row])
    assert std > 1e-3
    for i, (own, row) in enumerate(zip(naive.advantages(outcome), scores, strict=True)):
        wanted = [own + 0.3 * sum((s - mean) / (std + 1e-4) for s in row[t:]) for t in range(len(row))]
        assert found[i, : len(row)].tolist() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.long
def test_a_run(tmp_path: Path) -> None:
    """The scores are 0 for the starting model, and not after updates."""
    teacher = {"class_path": "TeacherLogprobs", "init_args": {"weights": "reference", "coefficient": -1.0}}
    root = fit(
        tmp_path,
        model__reward_model=json.dumps(["ExactMatch", teacher]),
        model__advantage_estimator=json.dumps({"class_path": "BlendedGRPO", "init_args": {"coefficient": 0.1}}),
        model__optimizer__init_args__lr=1e-3,
    )
    ratios = train_metrics(root)["rewards/TeacherLogprobs/reverse_kl"].abs().tolist()
    assert ratios[0] < 1e-5 < 1e-4 < ratios[-1]
