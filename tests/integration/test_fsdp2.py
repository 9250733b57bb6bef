"""FSDP2 in two real processes: options, checkpoints of both kinds, adapters, exports; what they leave loads in one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from lgrpo_lightning import cli
from lgrpo_lightning.distributed.sharded_checkpoint import read_whole_checkpoint
from tests.runs import CONFIG, checkpoint, lgrpo, lgrpo_arguments, metrics, rollouts
from tests.several import commands, torchrun

RUN = {
    "trainer__accelerator": "cpu",
    "trainer__limit_val_batches": 1,
    "model__validation__at_start": "false",
    "model__objective__kl_coef": 0.04,
    "model__optimizer__init_args__lr": 1e-3,
    "model__optimizer__init_args__eps": 1e-5,
}
EXPORT = json.dumps([{"class_path": "ExportModel", "init_args": {"every_n_rollouts": 2}}])


def strategy(**options: object) -> str:
    return json.dumps({"class_path": "FSDP2Strategy", "init_args": options})


SHARDED = strategy(save_distributed_checkpoint=True)


def command(name: str, root: Path, **options: object) -> list[str]:
    run: dict[str, object] = dict(RUN)
    return lgrpo_arguments(name, root, **({"trainer__devices": 2, "trainer__strategy": "fsdp2"} | run | options))


def one(name: str, root: Path, **options: object) -> Path:
    """The same in this process."""
    run: dict[str, object] = dict(RUN)
    assert lgrpo(name, root, **(run | options)) == 0
    return root


def weights(root: Path) -> dict[str, torch.Tensor]:
    path = root / "checkpoints" / "last.ckpt"
    found: Any = read_whole_checkpoint(path)["state_dict"] if path.is_dir() else checkpoint(root)["state_dict"]
    return found


def predictions(root: Path) -> pd.DataFrame:
    table = pd.read_parquet(root / "predictions.parquet")
    return table.sort_values(["prompt_uid", "member"], ignore_index=True)


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint in one file, and the same in two parts with folders; measured and drawn from after."""
    root = tmp_path_factory.mktemp("fsdp2")
    file, folder = root / "file", root / "folder"
    drawn = {"data__predict": "ArithmeticTasks", "data__predict__count": 4, "ckpt_path": "last"}
    commands([
        command("fit", file, trainer__max_steps=4, trainer__callbacks=EXPORT),
        command("fit", folder, trainer__max_steps=2, trainer__strategy=SHARDED),
        command("fit", folder, trainer__max_steps=4, trainer__strategy=SHARDED, ckpt_path="last"),
        command("predict", file, **drawn),
        command("predict", folder, trainer__strategy=SHARDED, **drawn),
        command("fit", root / "offload", trainer__max_steps=4, trainer__strategy=strategy(cpu_offload=True)),
    ])  # fmt: skip
    one("fit", root / "one", trainer__max_steps=4)
    return root


@pytest.mark.slow
def test_checkpoints_of_both_kinds_hold_the_run_of_one_process(runs: Path) -> None:
    assert (runs / "folder" / "checkpoints" / "last.ckpt").is_dir()
    assert largest_difference(weights(runs / "file"), weights(runs / "folder")) == 0
    assert largest_difference(weights(runs / "file"), weights(runs / "offload")) == 0
    assert largest_difference(weights(runs / "file"), weights(runs / "one")) < 5e-6
    pd.testing.assert_frame_equal(rollouts(runs / "file"), rollouts(runs / "folder"))


@pytest.mark.slow
def test_predictions_before_any_training_step(runs: Path) -> None:
    drawn = [predictions(runs / name) for name in ("file", "folder")]
    assert len(drawn[0]) == 16
    pd.testing.assert_frame_equal(*drawn)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_one_process_goes_on(kind: str, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / kind, tmp_path / kind)
    one("validate", tmp_path / kind, ckpt_path="last")
    one("predict", tmp_path / kind, ckpt_path="last", data__predict="ArithmeticTasks", data__predict__count=4)
    here, there = (predictions(root / kind) for root in (tmp_path, runs))
    assert list(here["completion"]) == list(there["completion"])
    one("fit", tmp_path / kind, ckpt_path="last", trainer__max_steps=6)
    whole = one("fit", tmp_path / "whole", trainer__max_steps=6)
    assert largest_difference(weights(tmp_path / kind), weights(whole)) < 5e-6


def exported(run: Path, out: Path, *options: str) -> Any:
    assert cli.main(["export", str(run), str(out), *options]) == 0
    return AutoModelForCausalLM.from_pretrained(out)


def greedy(model: Any) -> list[int]:
    out = model.generate(torch.tensor([[5, 6, 7, 8]]), do_sample=False, max_new_tokens=16, pad_token_id=0)
    return list(out[0].tolist())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_export(kind: str, runs: Path, tmp_path: Path) -> None:
    model = exported(runs / kind, tmp_path)
    trained = weights(runs / "file")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, trained[f"policy.model.{name}"])
    base = AutoModelForCausalLM.from_pretrained("lgrpo_lightning/policy/assets/arithmetic")
    assert not torch.equal(base.lm_head.weight, model.lm_head.weight)


@pytest.mark.slow
def test_export_on_the_way_is_whole(runs: Path, tmp_path: Path) -> None:
    folders = sorted((runs / "file" / "exports").iterdir())
    assert [f.name for f in folders] == ["rollout-000002", "rollout-000004"]
    way, end = AutoModelForCausalLM.from_pretrained(folders[-1]), exported(runs / "file", tmp_path)
    assert greedy(way) == greedy(end)
    assert largest_difference(way.state_dict(), end.state_dict()) == 0


@pytest.mark.slow
def test_a_folder_without_a_file_of_a_rank_says_so(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "folder", tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "last.ckpt" / "__1_0.distcp").unlink()
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 2
    assert "Every rank wrote a file" in capsys.readouterr().err
    (tmp_path / "run" / "checkpoints" / "last.ckpt" / "meta.pt").unlink()
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 2
    assert "its writing was cut off" in capsys.readouterr().err


LORA = {
    "model__policy__lora__rank": 4,
    "model__optimizer__init_args__lr": 1e-2,
    "model__sampling__temperature": 2.0,
    "model__sampling__max_new_tokens": 12,
    "model__reward_model": '{"class_path": "RewardFunction", "init_args": {"function": '
    '"tests.integration.rewards.even"}}',
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[..., Path]) -> Path:
    """Runs of an adapter: one file, folders in two parts, and one process."""
    root = tmp_path_factory.mktemp("lora")
    lora: dict[str, object] = LORA | {"model__policy__path": model_folder("llama")}
    folder, sharded = root / "folder", lora | {"trainer__strategy": SHARDED}
    one("fit", root / "widened", trainer__max_steps=2, **lora)
    commands([
        command("fit", root / "file", trainer__max_steps=4, trainer__callbacks=EXPORT, **lora),
        command("fit", folder, trainer__max_steps=2, **sharded),
        command("fit", folder, trainer__max_steps=4, ckpt_path="last", **sharded),
        command("fit", root / "file2", trainer__max_steps=2, **lora),
        command("fit", root / "file2", trainer__max_steps=4, ckpt_path="last", **lora),
        command("fit", root / "widened", trainer__max_steps=4, ckpt_path="last", **lora),
    ])  # fmt: skip
    one("fit", root / "one", trainer__max_steps=4, **lora)
    return root


@pytest.mark.slow
def test_adapter_checkpoints_hold_the_adapter_alone(adapters: Path) -> None:
    trained = weights(adapters / "one")
    assert all("lora_" in name for name in trained)
    assert largest_difference(weights(adapters / "file"), trained) < 1e-5
    for kind in ("folder", "file2"):
        assert largest_difference(weights(adapters / "file"), weights(adapters / kind)) == 0
    assert largest_difference(weights(adapters / "widened"), trained) < 1e-5  # begun in one process
    assert metrics(adapters / "file")["kl"].dropna().iloc[-1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_adapter_of_several_processes_goes_on_in_one(
    kind: str, adapters: Path, tmp_path: Path, model_folder: Any
) -> None:
    lora: dict[str, object] = LORA | {"model__policy__path": model_folder("llama")}
    shutil.copytree(adapters / kind, tmp_path / kind)
    one("fit", tmp_path / kind, trainer__max_steps=6, ckpt_path="last", **lora)
    whole = one("fit", tmp_path / "whole", trainer__max_steps=6, **lora)
    assert largest_difference(weights(tmp_path / kind), weights(whole)) < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_adapter_exports(kind: str, adapters: Path, tmp_path: Path, model_folder: Any) -> None:
    from peft import PeftModel

    merged = exported(adapters / kind, tmp_path / "merged")
    assert cli.main(["export", str(adapters / kind), str(tmp_path / "adapter"), "--adapter"]) == 0
    base = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    before = greedy(base)
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")
    way = AutoModelForCausalLM.from_pretrained(adapters / "file" / "exports" / "rollout-000004")
    assert greedy(merged) == greedy(way) == greedy(adapted)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-5)
        assert not torch.allclose(
            merged(ids).logits, AutoModelForCausalLM.from_pretrained(model_folder("llama"))(ids).logits
        )
    assert len(before) <= 20


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0; it must be at least 1"),
        ({"timeout_seconds": 0}, "must be above 0"),
        ({"reduce_dtype": "float64"}, "reduce_dtype"),
    ],
)
def test_refused(options: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lgrpo("fit", tmp_path, trainer__strategy=strategy(**options)) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow  # torchrun itself imports everything three times
def test_by_class_name_in_a_file(tmp_path: Path) -> None:
    written = yaml.safe_load(CONFIG.read_text())
    written["trainer"]["strategy"] = {
        "class_path": "FSDP2Strategy",
        "init_args": {"reduce_dtype": "bfloat16"},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(written))
    torchrun(command("fit", tmp_path / "run", config=path, trainer__strategy=None, trainer__max_steps=1))
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["strategy"]
    assert saved["init_args"]["reduce_dtype"] == "bfloat16"


@pytest.mark.slow
def test_forks_are_drawn_by_each_rank_in_its_own_calls(tmp_path: Path) -> None:
    forking = json.dumps({"class_path": "ForkingSampler", "init_args": {"share": 0.5}})
    options = {"model__sampler": forking, "trainer__max_steps": 3}
    commands([command("fit", tmp_path / "two", **options)])
    one("fit", tmp_path / "one", **options)
    assert largest_difference(weights(tmp_path / "two"), weights(tmp_path / "one")) < 5e-6
    assert list(rollouts(tmp_path / "two")["completion"]) == list(rollouts(tmp_path / "one")["completion"])
