"""Every number that a component or a group of options takes, as NaN, infinity, -1, 0 and far too large."""

from __future__ import annotations

import inspect
import math
import resource
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lgrpo_lightning import callbacks
from lgrpo_lightning.commands.checks import check_numbers
from lgrpo_lightning.commands.entries import Entry
from lgrpo_lightning.data.curriculum import Curriculum
from lgrpo_lightning.datamodule import PromptDataModule
from lgrpo_lightning.distributed.fsdp2 import FSDP2Strategy
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.module import GRPOModule
from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy.lora import Lora
from lgrpo_lightning.registry.lookup import components
from lgrpo_lightning.rewards import ExactMatch
from lgrpo_lightning.rollouts.whole_files import UnwritableError, whole_file
from lgrpo_lightning.training import Objective, Schedule, Updates, Validation
from lgrpo_lightning.training.optimizers import build_optimizer

OPTIONS = [
    Curriculum,
    Sampling,
    Objective,
    Schedule,
    Updates,
    Validation,
    PolicyConfig,
    Lora,
    PromptDataModule,
]
GIVEN = {
    "function": "tests.rewards.sample_functions.logs",
    "path": "lgrpo:arithmetic",
    "reward_model": ExactMatch(),
    "environment": "lgrpo_lightning.environments.GuessingGame",
    "pattern": "a",
}
NEGATIVE = {
    "ArithmeticTasks.seed",
    "BestCheckpoint.save_top_k",
    "BinaryTreeReward.otherwise",
    "BinaryTreeReward.penalty",
    "BlendedGRPO.coefficient",
    "Distillation.coefficient",
    "EligibilityTraceGRPO.min_advantage",
    "ExactMatch.correct",
    "ExactMatch.incorrect",
    "ExactMatch.missing",
    "FocalGRPO.success_threshold",
    "FormatMatch.otherwise",
    "FormatMatch.reward",
    "GRPOModule.reward_weights",
    "GuessingGame.cost",
    "GuessingGame.lowest",
    "GuessingTask.lowest",
    "GuessingTask.seed",
    "KimiLengthReward.threshold",
    "PassAtK.success_threshold",
    "PolicyConfig.eos_tokens",
    "PolicyConfig.extra_eos_tokens",
    "PolicyConfig.suppress_tokens",
    "RolloutCheckpoint.keep",
    "TEMPO.coefficient",
    "TeacherLogprobs.coefficient",
    "Updates.max_rollouts",
    "VLLMSampler.entropy_top",
    "Validation.success_threshold",
}
"""Options for which -1 means something."""


def classes() -> list[type]:
    """Everything with options, the built-in components and callbacks among them."""
    found = [c.cls for c in components().values() if c.cls.__module__.startswith("lgrpo_lightning.")]
    calls = [c for c in vars(callbacks).values() if isinstance(c, type) and issubclass(c, Callback)]
    return [*OPTIONS, GRPOModule, FSDP2Strategy, *found, *calls]


def kinds(hint: Any) -> set[type]:
    """The number types that a value, or an entry of a list, may have."""
    if hint in (int, float):
        return {hint}
    many = (typing.Union, types.UnionType, list, tuple)
    return set().union(*map(kinds, typing.get_args(hint))) if typing.get_origin(hint) in many else set()


def numbers() -> Iterator[tuple[type, str, dict[str, Any], Any]]:
    """(class, option, other arguments, type hint) of every option that is a number, or a list of them."""
    for cls in classes():
        hints, parameters = typing.get_type_hints(cls.__init__), inspect.signature(cls).parameters
        needed = {n: GIVEN.get(n, 4) for n, p in parameters.items() if p.default is p.empty and p.kind.value in (1, 3)}
        needed |= {n: GIVEN[n] for n in ("environment", "path") if n in parameters}
        yield from ((cls, n, needed, hints[n]) for n in parameters if kinds(hints.get(n)))


def refused(cls: type, name: str, given: dict[str, Any], value: Any) -> bool:
    """Whether it is; then in words that name the option."""
    try:
        made = cls(**{**given, name: value})
        if isinstance(made, FSDP2Strategy):  # it checks its options when the Trainer is made
            made.parallel_devices = [torch.device("cpu")]
            made._configure_launcher()
    except ValueError as error:
        if name not in str(error):
            pytest.fail(f"{cls.__name__}({name}={value!r}): {error}")
        return True
    return False


def test_every_number() -> None:
    negative = set()
    for cls, name, given, hint in numbers():
        listed = list in {typing.get_origin(h) for h in (hint, *typing.get_args(hint))}
        values = [0, -1, 10**400] if int in kinds(hint) else [0.0, -1.0, math.nan, math.inf, -math.inf, 1e308]
        for value in values:
            taken = not refused(cls, name, given, [value] if listed else value)
            if taken and value == -1:
                negative.add(f"{cls.__name__}.{name}")
    assert negative == NEGATIVE


AT = [Entry(key="model.optimizer.lr", value=".nan", place="run.yaml, line 7")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": math.nan}}}},
         "run.yaml, line 7: model.optimizer.lr is nan; it must be a finite number"),
        ({"trainer": {"limit_val_batches": math.inf}}, "trainer.limit_val_batches is inf"),
        ({"data": {"train": [{"init_args": {"count": 10**400}}]}}, r"data.train\[0\].count is a number of 13\d\d bits"),
        ({"seed_everything": -1}, "seed_everything is -1; it must be from 0 to 4294967295"),
    ],
)  # fmt: skip
def test_numbers_that_no_option_means(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_numbers(options, AT)


def test_numbers_of_other_packages_are_theirs() -> None:
    theirs = {"class_path": "mine.Reward", "init_args": {"limit": math.inf}}
    check_numbers({"model": {"reward_model": [theirs], "policy": {"model_kwargs": {"x": math.inf}}}}, AT)


def test_an_optimizer_that_refuses_its_options() -> None:
    with pytest.raises(ValueError, match=r"model.optimizer refuses its options: Invalid learning rate: -1"):
        build_optimizer(lambda p: torch.optim.AdamW(p, lr=-1), [torch.nn.Parameter(torch.zeros(1))])


def test_files_that_the_process_may_not_write(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        for write in (lambda p: torch.save(torch.ones(9999), p), lambda p: p.write_bytes(bytes(99_999))):
            said = r"x cannot be written: a file .* 20,000 bytes .ulimit -f"
            with pytest.raises(UnwritableError, match=said), whole_file(tmp_path / "x") as hidden:
                write(hidden)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
