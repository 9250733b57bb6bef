"""A loss, gradient or weight that is not finite: what is stopped, what is kept, what is said."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.reliability.processes import pair, same
from tests.runs import checkpoint, fit, lgrpo, rollouts, train_metrics

RUN: dict[str, Any] = {"trainer__max_steps": 5}


def poison(what: str, *at: int, **more: Any) -> str:
    init_args = {"what": what, "rollouts": list(at), **more}
    return json.dumps([{"class_path": "tests.integration.poison.Poison", "init_args": init_args}])


def saved(root: Path) -> dict[str, dict[str, Any]]:
    folder = root / "nonfinite"
    return {p.name: torch.load(p, weights_only=True) for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without poison."""
    return fit(tmp_path_factory.mktemp("whole"), **RUN)


@pytest.mark.long
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("output", r"the loss is not finite .rank 0: loss nan, rows \d+ .prompt train/"),
        ("gradient", "the gradient is not finite .rank 0: loss .*, gradient of model"),
    ],
)
def test_stop_is_before_the_update_and_resuming_goes_on_as_if_nothing_was(
    what: str, said: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lgrpo("fit", tmp_path, trainer__callbacks=poison(what, 3), **RUN) == 2
    error = capsys.readouterr().err
    assert "lgrpo: Rollout 3, optimizer step 3: " in error
    assert re.search(said, error), error
    assert "nonfinite/rollout-000003-step-000003-rank-000.pt" in error
    assert "updates.on_nonfinite: skip" in error
    assert checkpoint(tmp_path)["global_step"] == 3
    assert all(t.isfinite().all() for t in checkpoint(tmp_path)["state_dict"].values())  # type: ignore[attr-defined]
    fit(tmp_path, ckpt_path="last", **RUN)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "lgrpo"):
        same(checkpoint(whole)[part], checkpoint(tmp_path)[part], part)
    pd.testing.assert_frame_equal(rollouts(whole), rollouts(tmp_path), check_exact=True)


def test_the_batch_is_kept_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lgrpo("fit", tmp_path, trainer__callbacks=poison("output", 1), **RUN) == 2
    (content,) = saved(tmp_path).values()
    table = rollouts(tmp_path).query("rollout == 1")
    uids = list(dict.fromkeys(content["prompt_uids"]))
    table = pd.concat([table[table["prompt_uid"] == uid] for uid in uids])
    assert content["what"] == "loss"
    assert content["prompt_uids"] == table["prompt_uid"].tolist()
    assert content["completions"] == table["completion"].tolist()
    assert content["completion_ids"] == [list(ids) for ids in table["token_ids"]]
    assert content["rewards"].tolist() == table["reward"].tolist()
    assert content["weight_versions"] == [1] * len(table)
    assert content["weight_version"] == 1
    assert content["taken"] == list(range(len(table)))
    assert math.isnan(content["loss"])
    assert content["rows"]
    shape = content["advantages"].shape
    for name in ("weights", "mask", "logprobs", "sampler_logprobs"):
        assert content[name].shape == shape, name
    bad = (~content["logprobs"].isfinite() & content["mask"]).any(1).nonzero().flatten().tolist()
    assert content["rows"] == bad
    assert content["old_logprobs"] is None
    assert f"rows {bad[0]} (prompt {content['prompt_uids'][bad[0]]})" in capsys.readouterr().err


def test_one_bad_micro_batch_among_many_is_enough(tmp_path: Path) -> None:
    more: dict[str, Any] = {"model__policy__layout": "padded", "model__policy__micro_batch_tokens": 80}
    more["model__updates__iterations"] = 2
    assert lgrpo("fit", tmp_path, trainer__callbacks=poison("output", 1), **RUN | more) == 2
    (content,) = saved(tmp_path).values()
    assert len(content["losses"]) > 2
    assert [math.isfinite(loss) for loss in content["losses"]].count(False) == 1
    assert content["old_logprobs"].isfinite().all()
    assert checkpoint(tmp_path)["global_step"] == 2


def test_skip_drops_the_step_and_nothing_else(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skip = {"model__updates__on_nonfinite": "skip", "trainer__callbacks": poison("output", 1, 2)}
    fit(tmp_path, **RUN | skip)
    said = capsys.readouterr().out
    assert said.count("Optimizer step dropped. Rollout ") == 2
    table = train_metrics(tmp_path)
    assert table["updates/nonfinite"].tolist() == [0, 1, 1, 0, 0, 0, 0]
    assert table["step"].tolist() == [1, 1, 1, 2, 3, 4, 5]
    assert table["grad_norm"].isna().tolist() == [False, True, True, False, False, False, False]
    assert table["loss"].isna().tolist() == [False, True, True, False, False, False, False]
    assert len(saved(tmp_path)) == 2
    (optimizer,) = checkpoint(tmp_path)["optimizer_states"]  # type: ignore[misc]
    assert {float(s["step"]) for s in optimizer["state"].values()} == {5.0}
    (schedule,) = checkpoint(tmp_path)["lr_schedulers"]  # type: ignore[misc]
    assert schedule["last_epoch"] == 5
    first = rollouts(tmp_path)["weight_version"].groupby(rollouts(tmp_path)["rollout"]).first().tolist()
    assert first == [0, 1, 1, 1, 2, 3, 4]
    assert train_metrics(whole)["updates/nonfinite"].tolist() == [0] * 5


def test_skip_of_one_mini_batch_keeps_the_others(tmp_path: Path) -> None:
    more = {"model__updates__on_nonfinite": "skip", "model__updates__mini_batches": 2}
    fit(tmp_path, **RUN | more, trainer__callbacks=poison("gradient", 1))
    assert train_metrics(tmp_path)["updates/nonfinite"].tolist() == [0, 0.5, 0]
    assert train_metrics(tmp_path)["step"].tolist() == [2, 3, 5]


@pytest.mark.long
def test_skip_ends_where_it_cannot_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skip = {"model__updates__on_nonfinite": "skip"}
    many = poison("output", *range(1, 40))
    assert lgrpo("fit", tmp_path / "many", trainer__callbacks=many, **RUN | skip) == 2
    assert "10 optimizer steps in a row were dropped" in capsys.readouterr().err
    assert checkpoint(tmp_path / "many")["global_step"] == 1
    assert lgrpo("fit", tmp_path / "weight", trainer__callbacks=poison("weight", 2), **RUN | skip) == 2
    assert "Dropping the optimizer step cannot mend that" in capsys.readouterr().err


def test_a_poisoned_weight_never_reaches_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = json.loads(poison("weight", 3))
    every += [{"class_path": "LastCheckpoint", "init_args": {"every_n_rollouts": 2}}]
    assert lgrpo("fit", tmp_path, trainer__callbacks=json.dumps(every), **RUN) == 2
    said = capsys.readouterr()
    assert "The weights themselves are not finite (model." in said.err
    assert "the state after 2 is in" in said.out
    assert checkpoint(tmp_path)["global_step"] == 2
    assert all(t.isfinite().all() for t in checkpoint(tmp_path)["state_dict"].values())  # type: ignore[attr-defined]


def test_an_update_that_breaks_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The gradient is finite, the weights after the step are not, and no checkpoint takes them."""
    every = json.loads(poison("update", 2))
    every += [{"class_path": "LastCheckpoint", "init_args": {"every_n_rollouts": 1}}]
    assert lgrpo("fit", tmp_path, trainer__callbacks=json.dumps(every), **RUN) == 2
    error = capsys.readouterr().err
    assert "from a finite gradient, left weights that are not finite" in error
    assert "Lower the learning rate" in error
    kept = checkpoint(tmp_path)["state_dict"]
    assert checkpoint(tmp_path)["global_step"] == 2
    assert all(t.isfinite().all() for t in kept.values())  # type: ignore[attr-defined]


def ended(root: Path, **options: Any) -> tuple[list[int], str]:
    """Statuses of two processes, and what they said."""
    both = pair(root, **RUN | options)
    return [run.ended(120) for run in both], "".join(run.said() for run in both)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_only_one_rank_is_poisoned_and_all_decide_alike(strategy: str, tmp_path: Path) -> None:
    run = {
        "trainer__strategy": strategy,
        "trainer__max_steps": 3,
        "trainer__callbacks": poison("output", 1, rank=1),
    }
    statuses, said = ended(tmp_path / "skip", **run, model__updates__on_nonfinite="skip")
    assert statuses == [0, 0], said[-3000:]
    assert train_metrics(tmp_path / "skip")["updates/nonfinite"].tolist() == [0, 1, 0, 0]
    assert train_metrics(tmp_path / "skip")["step"].tolist() == [1, 1, 2, 3]
    assert all(t.isfinite().all() for t in checkpoint(tmp_path / "skip")["state_dict"].values())  # type: ignore[attr-defined]
    files = saved(tmp_path / "skip")
    assert list(files) == [f"rollout-000001-step-000001-rank-00{r}.pt" for r in (0, 1)]
    one, two = files.values()
    assert math.isfinite(one["loss"])
    assert one["rows"] == []
    assert math.isnan(two["loss"])
    assert two["rows"]
    if strategy == "fsdp2":
        return
    statuses, said = ended(tmp_path / "stop", **run)
    assert not {0, -9} & set(statuses)
    assert f"rank 1: loss nan, rows {two['rows'][0]} (prompt {two['uids'][0]}" in said
    assert "rank-001.pt" in said
    assert checkpoint(tmp_path / "stop")["global_step"] == 1


@pytest.mark.slow
def test_ranks_decide_alike_beside_a_scaler(tmp_path: Path) -> None:
    """The gradient is NaN on both ranks and left to the GradScaler; the loss is NaN on one, and both drop the step."""
    run = scaled(2.0) | {"trainer__strategy": "ddp", "trainer__max_steps": 3}
    run |= {"trainer__callbacks": poison("output", 1, rank=1), "model__updates__on_nonfinite": "skip"}
    statuses, said = ended(tmp_path / "run", **run)
    assert statuses == [0, 0], said[-3000:]
    assert train_metrics(tmp_path / "run")["updates/nonfinite"].tolist() == [0, 1, 0, 0]
    one, two = saved(tmp_path / "run").values()
    assert one["what"] == two["what"] == "loss"


def scaled(init_scale: float) -> dict[str, Any]:
    """16-bit training with a GradScaler, on a CPU."""
    scaler = {"class_path": "torch.amp.GradScaler", "init_args": {"device": "cpu", "init_scale": init_scale}}
    plugin = {
        "class_path": "lightning.pytorch.plugins.MixedPrecision",
        "init_args": {"precision": "16-mixed", "device": "cpu", "scaler": scaler},
    }
    return RUN | {"trainer__plugins": json.dumps([plugin])}


def test_a_scaler_finds_its_scale_undisturbed(tmp_path: Path) -> None:
    """Gradients that overflow because they are scaled are the GradScaler's to drop."""
    fit(tmp_path, **scaled(2.0**23))
    table = train_metrics(tmp_path)
    finite = [math.isfinite(norm) for norm in table["grad_norm"]]
    assert finite == sorted(finite)
    assert 0 < sum(finite) < 5
    assert table["updates/nonfinite"].tolist() == [0] * 5
    assert table["step"].tolist() == [1, 2, 3, 4, 5]
    assert not (tmp_path / "nonfinite").exists()
    state = checkpoint(tmp_path)["MixedPrecision"]
    assert state["scale"] == 2.0 ** (23 - finite.count(False))  # type: ignore[index]


def test_a_gradient_that_no_scale_mends_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lgrpo("fit", tmp_path, trainer__callbacks=poison("gradient", 1, 2, 3, 4), **scaled(2.0)) == 2
    assert "Rollout 3, optimizer step 3: the gradient is not finite" in capsys.readouterr().err
    assert all(t.isfinite().all() for t in checkpoint(tmp_path)["state_dict"].values())  # type: ignore[attr-defined]


def test_a_bad_loss_stops_a_scaled_run_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lgrpo("fit", tmp_path, trainer__callbacks=poison("output", 1), **scaled(2.0)) == 2
    assert "Rollout 1, optimizer step 1: the loss is not finite" in capsys.readouterr().err
