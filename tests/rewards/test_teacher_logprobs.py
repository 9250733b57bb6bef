import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy.loading import load_tokenizer
from lgrpo_lightning.rewards import TeacherLogprobs
from lgrpo_lightning.rewards.checks import check_rewards
from lgrpo_lightning.testing import check_reward_model, toy_group, toy_tree
from lgrpo_lightning.types import Group, Rewards
from tests.runs import checkpoint, fit, lgrpo, train_metrics

COMPLETIONS = [[5, 6, 7, 1], [5, 8], [5, 6, 7, 1], []]


def known_ids(completions: Sequence[Sequence[int]] = COMPLETIONS, prompt: tuple[int, ...] = (3, 4)) -> Group:
    """A group whose ids tiny models have."""
    group = toy_group(completions)
    return replace(group, prompt=replace(group.prompt, token_ids=prompt))


def scored(model: TeacherLogprobs, *groups: Group) -> list[Rewards]:
    trees = [toy_tree(g) for g in groups]
    return check_rewards(model, groups, trees, model.score_batch(groups, trees))


def naive(folder: Path, prompt: tuple[int, ...], completion: list[int], temperature: float) -> list[float]:
    """Log-probs token by token, each from a pass of its own over transformers' model."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    out = []
    for t, token in enumerate(completion):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *completion[:t]]])).logits[0, -1]
        out.append(float((logits / temperature).log_softmax(-1)[token]))
    return out


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_it_is_the_teachers_logprob_less_the_samplers(architecture: str, model_folder: Callable[..., Path]) -> None:
    folder = model_folder(architecture)
    model = TeacherLogprobs(str(folder), coefficient=0.5, temperature=0.7, batch_tokens=12)
    found = scored(model, known_ids(), known_ids([[9, 10, 11]]))[0]
    for row, completion in zip(found.tokens, COMPLETIONS, strict=True):  # type: ignore[arg-type]
        expected = [0.5 * (x + 0.5) for x in naive(folder, (3, 4), completion, 0.7)]  # toys have log-prob -0.5
        assert row[: len(completion)].tolist() == pytest.approx(expected, abs=1e-5)
        assert row[len(completion) :].isnan().all()
    assert found.outcome.isnan().all()
    mean = float(found.tokens.nanmean())  # type: ignore[union-attr]
    assert found.metrics["rewards/TeacherLogprobs/reverse_kl"] == pytest.approx(-mean / 0.5)


def test_keeps_the_contract(model_folder: Callable[..., Path]) -> None:
    check_reward_model(TeacherLogprobs(str(model_folder("llama"))), known_ids())


def test_tokens_that_are_not_the_models_own_get_none(model_folder: Callable[..., Path]) -> None:
    group = known_ids([[5, 6, 7]])
    told = replace(group.completions[0], mask=torch.tensor([True, False, True]))
    found = scored(TeacherLogprobs(str(model_folder("llama"))), replace(group, completions=(told,)))[0]
    assert found.tokens.isnan().tolist() == [[False, True, False]]  # type: ignore[union-attr]


def test_nothing_to_score_says_nothing(model_folder: Callable[..., Path]) -> None:
    model = TeacherLogprobs(str(model_folder("llama")))
    assert scored(model) == []
    assert scored(model, known_ids([[]]))[0].metrics == {}


def source(path: str) -> Any:
    return SimpleNamespace(tokenizer=load_tokenizer(PolicyConfig(path=path)), eos_token_ids=(1,))


def test_another_tokenizer_is_refused_before_anything_is_sampled(
    model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # a name is not looked for on the hub
    folder = model_folder("llama")
    TeacherLogprobs(str(folder)).setup(source(str(folder)))
    with pytest.raises(ValueError, match=r"whose tokenizer is not the policy's: \d+ tokens differ, such as"):
        TeacherLogprobs("lgrpo:arithmetic").setup(source(str(folder)))
    with pytest.raises(ValueError, match=r"TeacherLogprobs\.path is 'no/such'"):
        TeacherLogprobs("no/such").setup(source(str(folder)))
    small = tmp_path / "small"
    shutil.copytree(folder, small)
    config = (small / "config.json").read_text().replace('"vocab_size": ', '"vocab_size": 2, "was": ')
    (small / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"has 2 token ids and so no embedding for id \d+"):
        TeacherLogprobs(str(small)).setup(source(str(folder)))


def test_another_temperature_than_that_of_sampling_is_refused() -> None:
    at = vars(source("lgrpo:arithmetic")) | {"temperature": 0.7}
    for right in (None, 0.7):
        TeacherLogprobs("lgrpo:arithmetic", temperature=right).setup(SimpleNamespace(**at))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"temperature is 1 and sampling.temperature 0.7.*Leave it out"):
        TeacherLogprobs("lgrpo:arithmetic", temperature=1.0).setup(SimpleNamespace(**at))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "above 0"),
        ({"dtype": "int8"}, "one of float32"),
        ({"batch_tokens": 0}, "at least 1"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeacherLogprobs("lgrpo:arithmetic", **options)


def test_it_is_never_part_of_a_pickle(model_folder: Callable[..., Path]) -> None:
    model = TeacherLogprobs(str(model_folder("llama")))
    scored(model, known_ids())
    assert model.__getstate__()["_teacher"] is None
    assert math.isfinite(model.coefficient)


def test_in_a_run(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Beside an outcome that validation reads; a teacher with another tokenizer ends it before the first rollout."""
    teacher = {"class_path": "TeacherLogprobs", "init_args": {"path": "lgrpo:arithmetic"}}
    options = {"model__advantage_estimator": "Distillation", "model__advantage_estimator__coefficient": 0}
    root = fit(
        tmp_path / "a",
        model__reward_model=json.dumps([teacher, "ExactMatch"]),
        trainer__max_steps=1,
        model__sampling__temperature=0.5,
        **options,
    )
    row = train_metrics(root).iloc[0]
    # the policy itself, at the temperature of sampling
    assert row["rewards/TeacherLogprobs/reverse_kl"] == pytest.approx(0, abs=1e-5)
    assert row["reward"] == row["rewards/ExactMatch/mean"]
    assert not any("teacher" in key for key in checkpoint(root)["state_dict"])  # type: ignore[attr-defined]
    teacher["init_args"] = {"path": str(model_folder("llama"))}
    assert lgrpo("fit", tmp_path / "b", model__reward_model=json.dumps([teacher]), **options) != 0
    assert not list(tmp_path.glob("b/rollouts/*"))
