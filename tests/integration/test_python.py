"""GRPOModule in a user's own Python: outside a Trainer, in a second one, with Lightning's callbacks."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from transformers import AutoModelForCausalLM

from lgrpo_lightning import GRPOModule, PromptDataModule, Sampling, UserError, cli
from lgrpo_lightning.data import ArithmeticTasks
from lgrpo_lightning.estimators import LambdaGRPO
from lgrpo_lightning.functional.importance import ImportanceMode
from lgrpo_lightning.policy import Lora, PolicyConfig
from lgrpo_lightning.rewards import ExactMatch
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.segmenters import TokenPrefixSegmenter
from lgrpo_lightning.training import Objective, Updates, Validation
from tests.samplers.apart import ApartSampler

QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


def module(**options: Any) -> GRPOModule:
    seed_everything(3)
    given = {"reward_model": ExactMatch(), "optimizer": lambda p: torch.optim.AdamW(p, lr=1e-4)} | options
    return GRPOModule(group_size=4, sampling=Sampling(max_new_tokens=12), validation=Validation(k=2), **given)


def data(**options: Any) -> PromptDataModule:
    return PromptDataModule(train=ArithmeticTasks(count=8), prompts_per_step=2, **options)


def trainer(root: Path, **options: Any) -> Trainer:
    return Trainer(default_root_dir=root, **QUIET, **{"max_epochs": -1, "max_steps": 2} | options)


def weights(of: GRPOModule) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in of.state_dict().items()}


@pytest.mark.parametrize("lora", [None, Lora(rank=4, targets=["q_proj"])])
def test_last_goes_on_and_can_be_exported(lora: Lora | None, tmp_path: Path) -> None:
    """A Trainer made by hand, without a configuration on disk."""
    policy = PolicyConfig(lora=lora, suppress_tokens=["9"])
    trainer(tmp_path).fit(module(policy=policy), data(), ckpt_path="last")  # there is none yet
    again = module(policy=policy)
    trainer(tmp_path, max_steps=3).fit(again, data(), ckpt_path="last")
    assert again.rollout_index == 3
    assert pandas.read_csv(tmp_path / "metrics.csv")["rollout"].tolist() == [0, 1, 2]
    measured = module(policy=policy)
    trainer(tmp_path).validate(measured, data(validation=ArithmeticTasks(count=2)), ckpt_path="last")
    assert measured.rollout_index == 3
    assert cli.main(["export", str(tmp_path), str(tmp_path / "out")]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    trained = again.policy.model.state_dict()
    same = {name: torch.equal(merged[name], trained[name]) for name in merged if name in trained}
    assert same
    assert all(same.values()) or lora


# ------------------------------------------------------------------------------------------ outside a Trainer


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_load_from_checkpoint(tmp_path: Path, lora: Lora | None) -> None:
    policy = PolicyConfig(path="lgrpo:arithmetic", lora=lora)
    trained = module(policy=policy)
    trainer(tmp_path).fit(trained, data())
    path = tmp_path / "checkpoints" / "last.ckpt"
    options = {"sampling": Sampling(max_new_tokens=12), "validation": Validation(k=2)}
    loaded = GRPOModule.load_from_checkpoint(path, reward_model=ExactMatch(), policy=policy, **options)
    for name, tensor in weights(trained).items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.rollout_index == 2
    (scores,) = trainer(tmp_path / "again").validate(loaded, data(validation=ArithmeticTasks(count=4)))
    (same,) = trainer(tmp_path / "same").validate(trained, data(validation=ArithmeticTasks(count=4)))
    assert scores["val/reward"] == same["val/reward"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path).fit(module(), data())
    with pytest.raises(ValueError, match="The checkpoint is of another model"):
        GRPOModule.load_from_checkpoint(
            tmp_path / "checkpoints" / "last.ckpt",
            reward_model=ExactMatch(),
            policy=PolicyConfig(path="lgrpo:arithmetic", lora=Lora(rank=4)),
        )


def test_configure_model_and_then_fit(tmp_path: Path) -> None:
    made, plain = module(), module()
    made.configure_model()
    assert made.policy.model(torch.tensor([[1, 2]])).logits.shape[:2] == (1, 2)
    assert isinstance(copy.deepcopy(made), GRPOModule)
    trainer(tmp_path / "a", precision="bf16-true").fit(made, data())
    trainer(tmp_path / "b", precision="bf16-true").fit(plain, data())
    for name, tensor in weights(plain).items():
        assert torch.equal(made.state_dict()[name], tensor), name
    assert made.policy.model.lm_head.weight.dtype == torch.bfloat16


def test_pickle() -> None:
    made = GRPOModule(reward_model=ExactMatch())
    assert pickle.loads(pickle.dumps(made)).group_size == made.group_size


# ------------------------------------------------------------------------------------------ one module, two fits


@pytest.mark.parametrize("limit", ["max_rollouts", "max_steps"])
def test_a_second_trainer_is_a_new_run(tmp_path: Path, limit: str) -> None:
    one = module(**({"updates": Updates(max_rollouts=2)} if limit == "max_rollouts" else {}))
    options = {"max_steps": -1} if limit == "max_rollouts" else {"max_steps": 2}
    for root in ("a", "b"):
        before = weights(one) if hasattr(one, "policy") else {}
        trainer(tmp_path / root, **options).fit(one, data())
        assert one.rollout_index == 2
        assert len(pandas.read_parquet(tmp_path / root / "rollouts")["rollout"].unique()) == 2
        assert any(not torch.equal(tensor, one.state_dict()[name]) for name, tensor in before.items()) == (root == "b")
    resumed = trainer(tmp_path / "b", **options)
    resumed.fit(one, data(), ckpt_path=str(tmp_path / "b" / "checkpoints" / "last.ckpt"))
    assert one.rollout_index == 2


def test_the_same_trainer_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, same = module(updates=Updates(max_rollouts_without_step=2)), trainer(tmp_path, max_steps=2)
    same.fit(one, data())
    same.fit_loop.epoch_loop.max_steps = 4
    same.fit(one, data())
    assert (one.rollout_index, same.global_step) == (4, 4)
    assert capsys.readouterr().out.count("Completions end at") == 1  # nor is every rollout one without a step


def count_ones(completions: list[str], **columns: Any) -> list[float]:
    return [float(c.count("1")) for c in completions]


@pytest.mark.parametrize(("sampler", "factor"), [(TransformersSampler, 1.0), (ApartSampler, 0.01)])
def test_a_sampler_that_is_not_the_policy_is_corrected_for(
    tmp_path: Path, sampler: type[TransformersSampler], factor: float
) -> None:
    """Corrections of at most 0.01 in place of 1 make the gradient as much smaller."""
    norms = []
    modes: list[ImportanceMode] = ["none", "token_truncate"]
    for mode in modes:
        objective = Objective(importance=mode, importance_max=0.01)
        one = module(objective=objective, sampler=sampler(), reward_model=count_ones)
        trainer(tmp_path / mode, max_steps=1).fit(one, data())
        norms.append(float(one.trainer.callback_metrics["grad_norm"]))
    assert norms[0] > 0
    assert norms[1] == pytest.approx(factor * norms[0], rel=1e-4)


# ------------------------------------------------------------------------------------------ Lightning's callbacks


@pytest.mark.parametrize(
    "monitor",
    [
        "loss",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("reward", "entropy", "completions/mean_length")),
    ],
)
def test_monitors_of_training(tmp_path: Path, monitor: str) -> None:
    callbacks = [
        EarlyStopping(monitor=monitor, patience=9),
        ModelCheckpoint(monitor=monitor, filename="own", every_n_train_steps=1),
        ModelCheckpoint(monitor=monitor, filename="after"),
    ]
    options = {"val_check_interval": 1, "check_val_every_n_epoch": None, "callbacks": callbacks}
    made = trainer(tmp_path, **options)
    made.fit(module(), data(validation=ArithmeticTasks(count=2)))
    assert callbacks[0].wait_count + int(callbacks[0].best_score.isfinite()) >= 1
    assert {"own.ckpt", "after.ckpt"} <= {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert made.callbacks.count(callbacks[0]) == 1


def test_a_misspelt_monitor_is_refused_before_the_first_step(tmp_path: Path) -> None:
    made = trainer(tmp_path, callbacks=[EarlyStopping(monitor="val/acuracy")])
    with pytest.raises(ValueError, match=r"EarlyStopping monitors 'val/acuracy'.* Did you mean 'val/accuracy'"):
        made.fit(module(), data(validation=ArithmeticTasks(count=2)))
    assert not (tmp_path / "rollouts").exists() or not list((tmp_path / "rollouts").iterdir())


# ------------------------------------------------------------------------------------------ what a slot may be given


def brevity(completions: list[str], **columns: Any) -> list[float]:
    return [-float(len(c)) for c in completions]


async def slowly(completions: list[str], **columns: Any) -> list[float]:
    return [float(len(c)) for c in completions]


class Callable_:  # noqa: N801
    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        return [1.0] * len(completions)


def test_functions_are_reward_models(tmp_path: Path) -> None:
    given = [
        brevity,
        slowly,
        lambda completions, **columns: [0.5] * len(completions),
        Callable_(),
        ExactMatch(),
    ]
    for reward_model in (brevity, given, tuple(given)):
        made = GRPOModule(reward_model=reward_model)  # type: ignore[arg-type]
        assert len(made.reward_model.models) == (1 if callable(reward_model) else len(given))
    trainer(tmp_path).fit(module(reward_model=given), data())
    parts = {c for c in pandas.read_parquet(tmp_path / "rollouts") if c.startswith("reward/")}
    assert {"reward/brevity", "reward/slowly", "reward/ExactMatch"} <= parts
    assert len(parts) == len(given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"reward_model": ExactMatch},
            r"reward_model is the class ExactMatch; give an instance: ExactMatch\(",
        ),
        ({"reward_model": "ExactMatch"}, "reward_model is a str; .* name alone is for YAML"),
        ({"reward_model": [ExactMatch(), None]}, "reward_model is a NoneType"),
        ({"reward_model": torch.nn.Linear(1, 1)}, "reward_model is a Linear; .* RewardModel of your own"),
        ({"sampler": TransformersSampler}, r"sampler is the class TransformersSampler; give an instance"),
        (
            {"segmenter": TokenPrefixSegmenter},
            "segmenter is the class TokenPrefixSegmenter; give an instance",
        ),
        (
            {"advantage_estimator": LambdaGRPO},
            "advantage_estimator is the class LambdaGRPO; give an instance",
        ),
        ({"advantage_estimator": "GRPO"}, "advantage_estimator is a str; .* There are LambdaGRPO"),
        ({"sampler": LambdaGRPO()}, "sampler is a LambdaGRPO; it must be an instance of a Sampler"),
    ],
)
def test_what_is_no_component(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GRPOModule(**{"reward_model": ExactMatch(), **options})


@pytest.mark.parametrize("call", ["fit", "validate", "test", "predict"])
def test_loaders_in_place_of_a_data_module(tmp_path: Path, call: str) -> None:
    loader = torch.utils.data.DataLoader([{"prompt": "1+2="}])
    with pytest.raises(ValueError, match=rf"no data module. Use trainer.{call}\(module, datamodule=Prompt"):
        getattr(trainer(tmp_path), call)(module(), loader)


@pytest.mark.parametrize("processes", [1, 2])
def test_two_processes_compare_what_they_were_given(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[dict[str, str]]()

    def compare(trainer: Trainer, own: dict[str, str]) -> None:
        given.append(own)
        raise UserError("compared")

    monkeypatch.setattr("lgrpo_lightning.module.check_alike", compare)
    monkeypatch.setattr(Trainer, "world_size", processes)
    one = module()
    with pytest.raises(UserError, match="compared") if processes == 2 else nullcontext():
        trainer(tmp_path, fast_dev_run=True).fit(one, data())
    assert [own["model.group_size"] for own in given] == ["4"] * (processes - 1)


class NoFurther(PromptDataModule):
    """A data module of one's own, which gives batches alone."""

    @property
    def draw_further_prompts(self) -> Any:  # type: ignore[override]
        raise AttributeError


def test_one_round_of_further_prompts_needs_a_data_module_that_has_them(tmp_path: Path) -> None:
    given = NoFurther(train=ArithmeticTasks(count=8), prompts_per_step=2)
    with pytest.raises(ValueError, match="asks the data module for further prompts, and NoFurther"):
        trainer(tmp_path).fit(module(updates=Updates(refill_rounds=1)), given)
