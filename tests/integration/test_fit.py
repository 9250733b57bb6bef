"""`lgrpo fit` and what it leaves, on real small runs."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.runs import VALIDATED, checkpoint, fit, lgrpo, metrics, rollouts, train_metrics

COLUMNS = """
rollout prompt_uid member prompt completion token_ids length finish_reason reward
reward/ExactMatch advantage weight_version
"""
LOGGED = """
reward reward_std rewards/ExactMatch/mean frac_reward_zero_std completions/mean_length entropy
loss completions/clipped_ratio clip_ratio/region_mean grad_norm learning_rate tree/path_depth
time/step tree/intermediate_proportion time/sample time/reward time/train tokens_per_second
"""


def numbers(root: Path) -> pd.DataFrame:
    """All logged numbers that do not measure time."""
    table = metrics(root)
    return table[[c for c in table.columns if not c.startswith("time/") and c != "tokens_per_second"]]


@pytest.fixture(scope="module")
def run(real_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("run"), **VALIDATED)


@pytest.mark.long
def test_everything_is_in_the_run_folder(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert {"rollouts", "checkpoints", "metrics.csv", "reward.png", "config.yaml"} <= names
    assert (run / "config.yaml").stat().st_mode & 0o777 == 0o600  # it may hold keys
    assert (run / "checkpoints" / "last.ckpt").is_file()
    table = rollouts(run)
    assert len(table) == 3 * 2 * 4
    assert list(table["rollout"].unique()) == [0, 1, 2]
    assert set(COLUMNS.split()) <= set(table.columns)
    assert (table["weight_version"] == table["rollout"]).all()
    assert (table.groupby(["rollout", "prompt_uid"])["advantage"].sum().abs() < 1e-3).all()


def test_the_metrics_are_there(run: Path) -> None:
    table = metrics(run)
    assert table["step"].max() == 3
    validated = table[table["val/accuracy"].notna()]
    assert list(validated["step"]) == [0, 2, 3]
    for name in LOGGED.split():
        assert train_metrics(run)[name].notna().all(), name
    assert (train_metrics(run)["clip_ratio/region_mean"] == 0).all()  # one update per rollout


def test_validate_repeats_what_the_fit_reported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = metrics(run).dropna(subset=["val/accuracy"]).iloc[-1]
    capsys.readouterr()
    assert lgrpo("validate", run, ckpt_path=run / "checkpoints" / "last.ckpt") == 0
    shown = capsys.readouterr().out
    for name in ("val/accuracy", "val/avg@k", "val/pass@k"):
        line = next(x for x in shown.splitlines() if name in x)
        found = float(line.replace("│", " ").split()[-1])
        assert math.isclose(found, last[name], abs_tol=1e-6)
    assert metrics(run)["step"].max() == 3
    assert len(train_metrics(run)) == 3
    assert len(rollouts(run)) == 24


@pytest.mark.long
def test_the_same_seed_gives_the_same_run(run: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    short = {"trainer__max_steps": 1, "model__sampling__max_new_tokens": 8}  # threads wait long for each other
    one, two = (fit(tmp_path / name, **short) for name in ("a", "b"))
    torch.set_num_threads(threads)
    pairs = ((run, fit(tmp_path / "again", **VALIDATED)), (one, two))
    for first, second in pairs:
        same_numbers(first, second)
    other = fit(tmp_path / "c", seed_everything=1, **short)
    assert list(rollouts(other)["completion"]) != list(rollouts(one)["completion"])


def same_numbers(first: Path, second: Path) -> None:
    """To the bit."""
    pd.testing.assert_frame_equal(numbers(first), numbers(second), check_exact=True)
    pd.testing.assert_frame_equal(rollouts(first), rollouts(second), check_exact=True)
    for a, b in zip(*(checkpoint(r)["state_dict"].values() for r in (first, second)), strict=True):
        assert torch.equal(a, b)


def test_the_estimator_is_the_only_difference(run: Path, tmp_path: Path) -> None:
    vanilla = fit(tmp_path, model__advantage_estimator="GRPO", trainer__max_steps=1)
    a, b = rollouts(run).query("rollout == 0"), rollouts(vanilla)
    pd.testing.assert_frame_equal(*(t.drop(columns="token_weights") for t in (a, b)))
    assert train_metrics(run)["loss"][0] != train_metrics(vanilla)["loss"][0]
    assert train_metrics(run)["grad_norm"][0] < train_metrics(vanilla)["grad_norm"][0]


def test_ratios_of_the_own_sampler_do_not_weigh_the_loss(run: Path, tmp_path: Path) -> None:
    limit = {"model__updates__max_rollouts_without_step": 2}  # every rollout makes a step
    uncorrected = fit(tmp_path, model__objective__importance="none", **limit)
    assert list(train_metrics(uncorrected)["loss"]) == list(train_metrics(run)["loss"])
    assert train_metrics(run)["sampling/importance_sampling_ratio/mean"].notna().all()


def test_micro_batches_change_nothing(run: Path, tmp_path: Path) -> None:
    limit = {"model__updates__max_rollouts_without_step": 1}  # every rollout makes one
    small = fit(tmp_path, model__policy__micro_batch_tokens=100, trainer__max_steps=1, **limit)
    for name in ("loss", "grad_norm"):
        assert math.isclose(train_metrics(run)[name][0], train_metrics(small)[name][0], rel_tol=2e-5)


@pytest.mark.parametrize(
    "normalizer", ["token", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sequence", "constant"))]
)
def test_several_updates_per_rollout_with_a_reference(normalizer: str, tmp_path: Path) -> None:
    root = fit(
        tmp_path,
        model__objective__kl_coef=0.04,
        model__loss__normalizer=normalizer,
        model__loss__clip_high=0.28,
        model__updates__iterations=2,
        model__updates__mini_batches=2,
        trainer__max_steps=8,
        model__optimizer__init_args__lr=2e-3,
    )
    table = train_metrics(root)
    assert list(table["step"]) == [4, 8]
    assert table["kl"][1] > 0
    assert table["clip_ratio/region_mean"][0] > 0
    assert not any("reference" in key for key in checkpoint(root)["state_dict"])


def test_groups_of_equal_rewards_can_be_dropped(run: Path, tmp_path: Path) -> None:
    kept, dropped = run, fit(tmp_path / "b", model__updates__drop_equal_groups="true")
    a, b = train_metrics(kept), train_metrics(dropped)
    assert (a["groups/dropped"] == 0).all()
    assert b["groups/dropped"][0] == b["frac_reward_zero_std"][0] == b["groups/all_right"][0] + b["groups/all_wrong"][0]
    table = rollouts(dropped)
    equal = table.groupby(["rollout", "prompt_uid"])["reward"].transform("nunique") == 1
    assert (table["trained"] == ~equal).all()


NEVER = '{"class_path": "FormatMatch", "init_args": {"pattern": "never"}}'
NONE = '{"class_path": "RewardFunction", "init_args": {"function": "tests.rewards.sample_functions.exact"}}'


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model__updates__drop_equal_groups": "true", "model__reward_model": NEVER}, "equal rewards"),
        (
            {"model__updates__mask_truncated": "true", "model__sampling__max_new_tokens": 2},
            "100% of the completions are cut off",
        ),
        ({"model__reward_model": NONE}, "no reward applies to 100% of the completions"),
    ],
)
def test_a_run_that_makes_no_steps_ends_with_the_cause(
    options: dict[str, object], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = {"model__updates__max_rollouts_without_step": 2}
    assert lgrpo("fit", tmp_path, **quick, **options) == 2
    said = capsys.readouterr()
    assert "lgrpo: 2 rollouts in a row made no optimizer step" in said.err
    assert says in said.err
    assert "the state after 2 is in" in said.out
    assert list(metrics(tmp_path)["updates/skipped"]) == [1, 1]
    assert list(metrics(tmp_path)["step"]) == [0, 0]
    assert checkpoint(tmp_path)["lgrpo"]["rollout_index"] == 2  # type: ignore[index]


def test_several_rewards_with_weights(tmp_path: Path) -> None:
    models = '[{"class_path": "ExactMatch"}, {"class_path": "FormatMatch", "init_args": {"pattern": "="}}]'
    root = fit(tmp_path, model__reward_model=models, model__reward_weights="[1.0, 0.5]", trainer__max_steps=1)
    table = rollouts(root)
    assert (table["reward"] == table["reward/ExactMatch"] + 0.5 * table["reward/FormatMatch"]).all()


def test_a_delimiter_segmenter_gives_coarser_steps(run: Path, tmp_path: Path) -> None:
    root = fit(tmp_path, model__segmenter="DelimiterSegmenter", trainer__max_steps=1)
    first_exact, first_coarse = (rollouts(r).query("rollout == 0") for r in (run, root))
    assert list(first_exact["completion"]) == list(first_coarse["completion"])
    assert first_coarse["set_size_mean"].mean() <= first_exact["set_size_mean"].mean()


def test_predict_writes_completions_with_rewards(run: Path) -> None:
    predict = {"data__predict": "ArithmeticTasks", "data__predict__count": 3}
    assert lgrpo("predict", run, ckpt_path=run / "checkpoints" / "last.ckpt", **predict) == 0
    table = pd.read_parquet(run / "predictions.parquet")
    assert len(table) == 3 * 4
    assert table["reward"].isin([0.0, 1.0]).all()
    assert (table["weight_version"] == 3).all()  # optimizer steps of the checkpoint
    assert not table["trained"].any()


def test_a_bare_name_is_a_checkpoint_of_the_run(run: Path) -> None:
    assert lgrpo("validate", run, ckpt_path="last.ckpt") == 0


def test_test_measures_the_test_set(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = {"data__test": "ArithmeticTasks", "data__test__count": 3}
    assert lgrpo("test", run, ckpt_path=run / "checkpoints" / "last.ckpt", **test) == 0
    assert "test/accuracy" in capsys.readouterr().out
