"""BestCheckpoint and RolloutCheckpoint: what is written, removed, remembered and refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lgrpo_lightning.callbacks import BestCheckpoint, LastCheckpoint, RolloutCheckpoint
from lgrpo_lightning.callbacks.validate_at_ends import ValidateAtEnds, validate_now
from tests.callbacks.stub import FailureError, StubModule, fit

EACH: dict[str, Any] = {"limit_val_batches": 1, "val_check_interval": 1, "check_val_every_n_epoch": None}
SCORES = [0.1, 0.5, 0.3, 0.5, 0.7]


class Scored(StubModule):
    """Validations with given scores; None is not measured."""

    def __init__(self, scores: list[float | None], **options: Any) -> None:
        super().__init__(**options)
        self.scores = scores

    def validation_step(self, item: int, batch_idx: int) -> None:
        score = self.scores[self.rollout_index - 1]
        if score is not None:
            self.log("val/score", score, batch_size=1)


def run(root: Path, *callbacks: Any, scores: Any = SCORES, **options: Any) -> Scored:
    failing = {"fail": options.pop("fail")} if "fail" in options else {}
    module = Scored(list(scores), **failing)
    fit(root, *callbacks, module=module, **EACH | options)
    return module


def there(root: Path) -> dict[str, int]:
    """Checkpoints by name → rollouts done in them."""
    files = sorted((root / "checkpoints").iterdir())
    return {p.name: torch.load(p, weights_only=True)["stub"]["rollout_index"] for p in files}


def test_the_best_is_kept_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    best = BestCheckpoint("val/score")
    run(tmp_path, best, scores=[0.1, 0.5, 0.3, 0.5, 0.2])
    assert there(tmp_path) == {"best.ckpt": 2, "last.ckpt": 5}
    assert best.best_score == pytest.approx(0.5)
    assert best.best_model_path == str(tmp_path / "checkpoints" / "best.ckpt")


@pytest.mark.parametrize(("mode", "kept"), [("max", {2, 5}), ("min", {1, 3})])
def test_several_are_kept_and_the_others_removed(tmp_path: Path, mode: Any, kept: set[int]) -> None:
    best = BestCheckpoint("val/score", mode=mode, save_top_k=2)
    run(tmp_path, best)
    assert there(tmp_path) == {f"best-rollout-{n:06d}.ckpt": n for n in kept} | {"last.ckpt": 5}
    assert best.best_model_path.endswith("000005.ckpt" if mode == "max" else "000001.ckpt")


def test_a_validation_that_measured_nothing_is_no_candidate(tmp_path: Path) -> None:
    run(tmp_path, BestCheckpoint("val/score", save_top_k=-1), scores=[0.1, None, 0.3, None, float("nan")])
    assert list(there(tmp_path)) == ["best-rollout-000001.ckpt", "best-rollout-000003.ckpt", "last.ckpt"]


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("at", ["last.ckpt", "best.ckpt", "rollout-000002.ckpt"])
def test_the_best_survives_an_end_and_a_resume(tmp_path: Path, at: str, order: int) -> None:
    """Whatever the order of the callbacks, and from whichever checkpoint the run goes on."""

    def callbacks() -> list[Any]:
        made = [BestCheckpoint("val/score"), RolloutCheckpoint(2), LastCheckpoint(every_n_rollouts=1)]
        return made if order == 0 else made[::-1]

    scores = [0.1, 0.9, 0.3, 0.5, 0.7]
    with pytest.raises(FailureError):
        run(tmp_path, *callbacks(), scores=scores, fail=(3, "sample"))
    again = callbacks()
    run(tmp_path, *again, scores=scores, ckpt_path=str(tmp_path / "checkpoints" / at))
    (best,) = [c for c in again if isinstance(c, BestCheckpoint)]
    assert best.kept == [("best.ckpt", pytest.approx(0.9), 2)]
    assert there(tmp_path) == {
        "best.ckpt": 2,
        "last.ckpt": 5,
        "last-previous.ckpt": 4,
        "rollout-000002.ckpt": 2,
        "rollout-000004.ckpt": 4,
    }


@pytest.mark.parametrize(
    "ends", [{"max_epochs": 2}, {"max_epochs": -1, "max_steps": 6}, {"max_epochs": -1, "max_steps": 10}]
)
def test_a_validation_past_the_end_does_not_spoil_the_place(tmp_path: Path, ends: dict[str, int]) -> None:
    """The best is that of the validation after the last rollout; more rollouts equal one long run."""

    def run_on(root: Path, *callbacks: Any, ckpt_path: str | None = None, **options: Any) -> StubModule:
        every = {"limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None}
        return fit(root, ValidateAtEnds(), *callbacks, ckpt_path=ckpt_path, **every | options)

    longer = {name: value * 2 for name, value in ends.items() if value > 0}
    whole = run_on(tmp_path / "whole", **ends | longer)
    run_on(tmp_path / "two", BestCheckpoint("val/accuracy"), RolloutCheckpoint(1), **ends)
    done = max(there(tmp_path / "two").values())
    places = {p.name: torch.load(p, weights_only=True) for p in (tmp_path / "two" / "checkpoints").iterdir()}
    for part in ("loops", "epoch"):
        assert places["best.ckpt"][part] == places["last.ckpt"][part], part
    for name in ("best.ckpt", f"rollout-{done:06d}.ckpt"):
        assert there(tmp_path / "two")[name] == done
        at = str(tmp_path / "two" / "checkpoints" / name)
        resumed = run_on(tmp_path / "on" / name, ckpt_path=at, **ends | longer)
        assert resumed.seen == whole.seen[done:]
        assert torch.equal(whole.weight, resumed.weight)


class MeasureAgain(Callback):
    """Validates once more after the last rollout."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        validate_now(trainer, trainer.current_epoch)


@pytest.mark.parametrize(("most", "kept"), [(1, {5}), (2, {2, 5}), (3, {2, 4, 5}), (-1, {1, 2, 3, 4, 5})])
def test_a_rollout_that_is_measured_again(tmp_path: Path, most: int, kept: set[int]) -> None:
    best = BestCheckpoint("val/score", save_top_k=most)
    run(tmp_path, MeasureAgain(), best)
    assert {rollouts for _, _, rollouts in best.kept} == kept
    assert {n for name, n in there(tmp_path).items() if name.startswith("best")} == kept


def test_a_new_run_of_the_same_callback_begins_with_nothing_kept(tmp_path: Path) -> None:
    best = BestCheckpoint("val/score")
    run(tmp_path, best, scores=[0.9] * 5)
    run(tmp_path, best, scores=[0.1, 0.5, 0.3, 0.2, 0.4])
    assert best.kept == [("best.ckpt", pytest.approx(0.5), 2)]
    assert there(tmp_path)["best.ckpt"] == 2


def test_a_kept_file_that_is_gone_is_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FailureError):
        run(tmp_path, BestCheckpoint("val/score"), scores=[0.9, 0.2, 0.3, 0.5, 0.7], fail=(3, "sample"))
    (tmp_path / "checkpoints" / "best.ckpt").unlink()
    run(tmp_path, BestCheckpoint("val/score"), scores=[0.9, 0.2, 0.3, 0.5, 0.7], ckpt_path="last")
    assert there(tmp_path)["best.ckpt"] == 5
    assert "best.ckpt is no longer in" in capsys.readouterr().out


def test_rollouts_are_counted_not_steps(tmp_path: Path) -> None:
    fit(tmp_path, RolloutCheckpoint(2), module=StubModule(steps=3))
    assert there(tmp_path) == {"rollout-000002.ckpt": 2, "rollout-000004.ckpt": 4, "last.ckpt": 5}


def test_the_newest_are_kept(tmp_path: Path) -> None:
    fit(tmp_path, RolloutCheckpoint(1, keep=2), limit_train_batches=3)
    assert there(tmp_path) == {"rollout-000002.ckpt": 2, "rollout-000003.ckpt": 3, "last.ckpt": 3}
    fit(tmp_path, RolloutCheckpoint(1, keep=2), ckpt_path="last", limit_train_batches=4, max_epochs=1)
    assert "rollout-000003.ckpt" in there(tmp_path)


def test_an_older_runs_are_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = [lambda: BestCheckpoint("val/score"), lambda: RolloutCheckpoint(2)]
    run(tmp_path, *[c() for c in callbacks], scores=[0.9] * 5, limit_train_batches=2)
    run(tmp_path, *[c() for c in callbacks], ValidateAtEnds(at_start=False), limit_train_batches=2)
    assert there(tmp_path) == {
        "best.ckpt": 2,
        "last.ckpt": 2,
        "rollout-000002.ckpt": 2,
        "old-1-best.ckpt": 1,
        "old-1-last.ckpt": 2,
        "old-1-rollout-000002.ckpt": 2,
    }
    assert capsys.readouterr().out.count("of an older run is kept as") == 3


def test_patience_and_lightnings_own_are_in_the_rollouts_checkpoint(tmp_path: Path) -> None:
    """A validation that follows the rollout changes them; the checkpoint has them as they are then."""
    own = ModelCheckpoint(monitor="val/score", mode="max", filename="own")
    run(tmp_path, RolloutCheckpoint(2), own, EarlyStopping("val/score", mode="max", patience=9))
    states = torch.load(tmp_path / "checkpoints" / "rollout-000004.ckpt", weights_only=True)["callbacks"]
    assert {n.split("{")[0]: s.get("wait_count") for n, s in states.items()}["EarlyStopping"] == 2
    (score,) = [s["best_model_score"] for n, s in states.items() if n.startswith("ModelCheckpoint")]
    assert score == pytest.approx(0.5)
    assert "own.ckpt" in there(tmp_path)


def test_nothing_under_fast_dev_run(tmp_path: Path) -> None:
    run(tmp_path, BestCheckpoint("val/score"), RolloutCheckpoint(1), fast_dev_run=True)
    assert not (tmp_path / "checkpoints").exists()


def test_a_metric_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'val/scor', which .* Did you mean 'val/score'\? It logs: "):
        run(tmp_path, BestCheckpoint("val/scor"))
    with pytest.raises(ValueError, match="limit_val_batches is 0"):
        fit(tmp_path, BestCheckpoint("val/score"))


def test_a_run_without_a_validation_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, BestCheckpoint("val/score"), val_check_interval=100)
    assert "no validation measured 'val/score', so nothing was kept" in capsys.readouterr().out


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"would both write best.ckpt; give one of them another filename"):
        run(tmp_path, BestCheckpoint("val/score"), BestCheckpoint("val/score", mode="min"))
    run(tmp_path, BestCheckpoint("val/score"), BestCheckpoint("val/score", mode="min", filename="worst"))
    assert there(tmp_path) == {"best.ckpt": 5, "worst.ckpt": 1, "last.ckpt": 5}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BestCheckpoint(mode="more"), "'max' or 'min'"),  # type: ignore[arg-type]
        (lambda: BestCheckpoint(save_top_k=0), "at least 1, or -1"),
        (lambda: BestCheckpoint(filename="a/b"), "must be a file name"),
        (lambda: BestCheckpoint(filename="last"), "not 'last'"),
        (lambda: RolloutCheckpoint(0), "at least 1"),
        (lambda: RolloutCheckpoint(keep=0), "at least 1, or -1"),
    ],
)
def test_impossible_settings(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
