"""A string where several values are meant is refused, in every option that takes several."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from lgrpo_lightning import GRPOModule, ProcessTree, PromptDataModule, RewardModel, callbacks
from lgrpo_lightning.commands.run import main
from lgrpo_lightning.errors import check_metrics, listed
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Lora, PolicyConfig
from lgrpo_lightning.rewards import ExactMatch, RewardFunction, StepRewardFunction, TeacherLogprobs
from lgrpo_lightning.rewards.checks import RewardError, check_rewards
from lgrpo_lightning.rewards.weighted_sum import RewardSum
from lgrpo_lightning.samplers.vllm.options import EngineOptions, ServerOptions
from lgrpo_lightning.testing import toy_group, toy_tree
from lgrpo_lightning.types import Completion, Prompt, Rewards

SEVERAL = r"\b(list|tuple|Sequence|Iterable|set|frozenset|dict|Mapping)\["
GIVEN: Mapping[type, dict[str, Any]] = {
    ExactMatch: {},
    RewardFunction: {"function": len},
    StepRewardFunction: {"function": len},
    TeacherLogprobs: {"path": "lgrpo:arithmetic"},
    RewardSum: {"models": [ExactMatch()]},
    GRPOModule: {"reward_model": ExactMatch()},
    Prompt: {"uid": "a", "text": "a", "token_ids": (1,)},
    Completion: {
        "token_ids": (1,),
        "logprobs": torch.zeros(1),
        "text": "a",
        "text_ends": (1,),
        "finish_reason": "stop",
        "mask": torch.ones(1),
    },
}
"""What a class needs beside the option that is tried."""
OPEN = {  # values that only this library makes, and texts that are one value
    "columns", "parts", "metrics", "extras", "rollouts", "groups", "trees", "rewards", "credits", "trained", "prompts",
    "contexts", "completions", "text_ends", "turns", "environment", "validation", "test", "predict", "models",
    "reward_model",
}  # fmt: skip


def options() -> Iterator[tuple[type, str, bool]]:
    """(class, option, whether it takes values by name) of everything that people construct."""
    classes = [Sampling, Lora, PolicyConfig, EngineOptions, ServerOptions, PromptDataModule, *GIVEN]
    rooms = (
        "rewards",
        "segmenters",
        "estimators",
        "samplers",
        "data",
        "callbacks",
        "checkpoints",
        "training",
    )
    for room in rooms:
        package = importlib.import_module(f"lgrpo_lightning.{room}")
        classes += vars(package).values()
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            found = vars(importlib.import_module(module.name)).values()
            classes += [c for c in found if getattr(c, "__name__", "") in callbacks.__all__]
    for cls in dict.fromkeys(c for c in classes if inspect.isclass(c) and not issubclass(c, Exception)):
        for name, parameter in inspect.signature(cls).parameters.items():
            if name not in OPEN and re.search(SEVERAL, str(parameter.annotation)):
                yield cls, name, bool(re.search(r"dict|Mapping", str(parameter.annotation)))


TRIED = list(options())


def test_all_options_are_found() -> None:
    assert {name for _, name, _ in TRIED} >= {
        "stop", "targets", "eos_tokens", "extra_eos_tokens", "model_kwargs", "urls", "extra", "reward_weights",
        "kwargs", "chat_template_kwargs", "token_ids", "messages", "weights",
    }  # fmt: skip


@pytest.mark.parametrize(("cls", "name", "named"), TRIED, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_string_is_refused(cls: type, name: str, named: bool) -> None:
    for text in ("abc", "12"):
        with pytest.raises(ValueError, match=rf"{name} is .*'{text}', where") as error:
            cls(**{**GIVEN.get(cls, {}), name: text})
        assert ("by name" in str(error.value)) == named
        assert named or f"write ['{text}']" in str(error.value)


def test_other_values() -> None:
    assert Sampling(stop=["a", "bc"]).stop == ("a", "bc")  # type: ignore[arg-type]
    assert Lora(targets="all-linear").targets == "all-linear"
    assert Lora(targets=("q_proj",)).targets == ["q_proj"]  # type: ignore[arg-type]
    for value in (5, None, {"a": 1}):
        with pytest.raises(ValueError, match="where a list is meant; its entries are of type string"):
            listed("x", value)
    with pytest.raises(ValueError, match="x has 5, a int; each entry is of type string"):
        listed("x", ["a", 5])
    with pytest.raises(ValueError, match="x has True, a bool; each entry is of type string or integer"):
        listed("x", [True], of=(str, int))


class Needs(RewardModel):
    """A reward model of a plug-in whose columns are written as a string."""

    columns = "answer"  # type: ignore[assignment]

    def score(self, group: Any, tree: Any) -> Any:
        return torch.zeros(len(group))


def test_what_plugins_and_reward_functions_give() -> None:
    group = toy_group(["a", "b", "c"])
    trees = [toy_tree(group)]
    with pytest.raises(ValueError, match=r"Needs.columns is the string 'answer'.*\['answer'\]"):
        RewardSum([Needs()])
    logging = lambda completions, log_extra, **_: log_extra("note", "abc") or [0.0] * 3  # noqa: E731
    with pytest.raises(RewardError, match=r"log_extra\('note', …\) is the string 'abc'"):
        RewardFunction(logging).score_batch([group], trees)
    for answer in ("123", {1.0: 1, 2.0: 2, 3.0: 3}, {1.0, 2.0, 3.0}):
        with pytest.raises(RewardError, match=f"returned a {type(answer).__name__}; it must return a list"):
            RewardFunction(lambda completions, _answer=answer, **_: _answer).score_batch([group], trees)
    extras = Rewards(outcome=torch.zeros(3), extras={"note": "abc"})  # type: ignore[dict-item]
    with pytest.raises(RewardError, match="extras note are a string"):
        check_rewards(ExactMatch(), [group], trees, [extras])
    with pytest.raises(ValueError, match=r"keys\[0\] is the string 'ab'"):
        ProcessTree.from_steps(["ab"], [[0, 1]])
    with pytest.raises(ValueError, match="completions is the string"):
        toy_group("abc")


@pytest.mark.parametrize(
    "key",
    ["sampling.stop", "policy.lora.targets", "policy.eos_tokens", "policy.extra_eos_tokens", "reward_weights",
     "sampler.init_args.server.urls", "policy.model_kwargs", "sampler.init_args.engine.extra"],
)  # fmt: skip
def test_flags(key: str, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "fit",
        "--model.reward_model=ExactMatch",
        "--model.sampler=VLLMSampler",
        f"--model.{key}=abc",
    ]
    assert main(arguments) != 0
    said = capfd.readouterr().err
    assert key.removeprefix("sampler.init_args.").removesuffix(".targets") in said
    assert "it must be" in said


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@x", "", "a\nb", "\ta", 3])
def test_names_of_metrics_are_plain_text(name: object) -> None:
    with pytest.raises(ValueError, match=r"mine logs a metric .* printable text that begins with a letter"):
        check_metrics("mine", ["größe/x", name])
