"""Train → export → reload, on several architectures; LoRA runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from lgrpo_lightning import cli
from lgrpo_lightning.commands.export import read_policy_config
from lgrpo_lightning.policy import Lora, Policy, PolicyConfig
from lgrpo_lightning.policy.export import export, load_weights
from tests.models import make_model, tokenizer
from tests.runs import CONFIG, checkpoint, fit, lgrpo, rollouts, train_metrics

TRAIN = {
    "model__optimizer__init_args__lr": 1e-2,
    "model__sampling__max_new_tokens": 12,
    "model__sampling__temperature": 2.0,
    "model__reward_model": '{"class_path": "RewardFunction", "init_args": {"function": '
    '"tests.integration.rewards.even"}}',
}


def greedy(model: object) -> list[int]:
    ids = torch.tensor([tokenizer()("1+1=")["input_ids"]])
    out = model.generate(ids, do_sample=False, max_new_tokens=16, pad_token_id=0, eos_token_id=1)  # type: ignore[attr-defined]
    return list(out[0].tolist())


@pytest.mark.parametrize(
    "architecture",
    [
        "llama",
        "gemma3",
        "gpt2",
        *(pytest.param(a, marks=pytest.mark.slow) for a in ("qwen2", "qwen3", "granite", "gemma2", "cohere")),
    ],
)
def test_train_export_reload(architecture: str, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    run = fit(tmp_path / "run", model__policy__path=model_folder(architecture), **TRAIN)
    assert cli.main(["export", str(run), str(tmp_path / "out")]) == 0
    before = AutoModelForCausalLM.from_pretrained(model_folder(architecture))
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    changed = [n for (n, a), b in zip(before.named_parameters(), after.parameters(), strict=True) if not a.equal(b)]
    assert len(changed) > len(list(before.parameters())) // 2
    policy = Policy(read_policy_config(run))
    load_weights(policy, checkpoint(run)["state_dict"])  # type: ignore[arg-type]
    assert greedy(after) == greedy(policy.model.eval())


def test_what_ends_completions_is_exported(tmp_path: Path) -> None:
    folder = make_model("llama", tmp_path / "model", special=("<|x|>",), vocab_size=60)
    run = fit(tmp_path / "run", model__policy__path=folder, model__policy__extra_eos_tokens='["<|x|>"]', **TRAIN)
    assert cli.main(["export", str(run), str(tmp_path / "out")]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == [1, 44]
    assert model.get_output_embeddings().weight.shape == (60, 64)  # ids without text, too


@pytest.mark.long
def test_lora_run(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    lora = {"model__policy__path": model_folder("llama"), "model__policy__lora__rank": 4} | TRAIN
    every = '[{"class_path": "LastCheckpoint", "init_args": {"every_n_rollouts": 2}}]'
    whole = fit(tmp_path / "whole", model__objective__kl_coef=0.1, trainer__max_steps=4, **lora)
    state = checkpoint(whole)["state_dict"]
    assert state
    assert all("lora_" in name for name in state)  # type: ignore[attr-defined]
    assert train_metrics(whole)["kl"].iloc[-1] > 0
    part = fit(
        tmp_path / "part",
        model__objective__kl_coef=0.1,
        trainer__max_steps=2,
        trainer__callbacks=every,
        **lora,
    )
    fit(part, model__objective__kl_coef=0.1, trainer__max_steps=4, ckpt_path="last", **lora)
    for name, tensor in checkpoint(part)["state_dict"].items():  # type: ignore[attr-defined]
        assert torch.equal(tensor, state[name])  # type: ignore[index]
    pd.testing.assert_frame_equal(rollouts(whole), rollouts(part))
    assert cli.main(["export", str(whole), str(tmp_path / "merged")]) == 0
    assert cli.main(["export", str(whole), str(tmp_path / "adapter"), "--adapter"]) == 0
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    policy = Policy(read_policy_config(whole))
    load_weights(policy, state)  # type: ignore[arg-type]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, policy.model.eval()(ids).logits, atol=1e-5, rtol=0)


def test_the_type_of_the_weights(tmp_path: Path) -> None:
    base = make_model("llama", tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    policy = Policy(PolicyConfig(path=str(base)))
    assert next(policy.parameters()).dtype == torch.float32
    for dtype, wanted in ((None, torch.bfloat16), ("float32", torch.float32)):
        export(policy, tokenizer(), tmp_path / str(dtype), dtype=dtype)
        assert next(AutoModelForCausalLM.from_pretrained(tmp_path / str(dtype)).parameters()).dtype == wanted


def test_an_adapter_names_its_base_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model("llama", tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    policy = Policy(PolicyConfig(path="base", lora=Lora(rank=2)))
    export(policy, tokenizer(), tmp_path / "adapter", adapter=True)
    entries = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert entries["base_model_name_or_path"] == str(tmp_path / "base")


def test_export_every_n_rollouts(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    callbacks = '[{"class_path": "ExportModel", "init_args": {"every_n_rollouts": 2}}]'
    run = fit(tmp_path, model__policy__path=model_folder("llama"), trainer__callbacks=callbacks, **TRAIN)
    assert [p.name for p in (run / "exports").iterdir()] == ["rollout-000002"]
    AutoModelForCausalLM.from_pretrained(run / "exports" / "rollout-000002")


def test_what_can_go_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "holds no checkpoints" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"")
    assert cli.main(["export", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "best.ckpt" in capsys.readouterr().err
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    assert cli.main(["export", str(checkpoint), str(tmp_path / "out")]) == 2
    assert f"lgrpo export {tmp_path} {tmp_path / 'out'} --checkpoint best.ckpt" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path), str(tmp_path)]) == 2
    assert "is not empty, and nothing is overwritten" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path), str(checkpoint)]) == 2
    assert "is a file, and nothing is overwritten" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "checkpoints")
    assert lgrpo("fit", tmp_path, model__policy__path="lgrpo:nothing") == 2
    assert "lgrpo:arithmetic" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("how", ["yaml", "flag"])
def test_going_on_from_an_adapter(how: str, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """The run starts with it, its reference is the model with it, and it is exported and resumed as any other."""
    base = {"model__policy__path": model_folder("llama")} | TRAIN
    first = fit(tmp_path / "first", model__policy__lora__rank=3, model__policy__lora__alpha=5, **base)
    assert cli.main(["export", str(first), str(tmp_path / "adapter"), "--adapter"]) == 0
    assert cli.main(["export", str(first), str(tmp_path / "merged")]) == 0
    given = {"model__objective__kl_coef": 0.1} | base
    if how == "yaml":
        config = yaml.safe_load(CONFIG.read_text())
        config["model"].setdefault("policy", {})["lora"] = {"from_adapter": str(tmp_path / "adapter")}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        given["config"] = tmp_path / "run.yaml"
    else:
        given["model__policy__lora__from_adapter"] = tmp_path / "adapter"
    second = fit(tmp_path / "second", trainer__max_steps=2, **given)
    assert train_metrics(second)["kl"].iloc[0] == pytest.approx(0, abs=1e-6)
    plain = fit(tmp_path / "plain", **base | {"model__policy__path": tmp_path / "merged", "trainer__max_steps": 1})
    drawn = [rollouts(run).query("rollout == 0")["completion"].tolist() for run in (second, plain)]
    assert drawn[0] == drawn[1]
    policy = Policy(read_policy_config(second))
    assert (policy.config.lora.rank, policy.config.lora.alpha) == (3, 5)  # type: ignore[union-attr]
    fit(second, trainer__max_steps=3, ckpt_path="last", **given)
    assert cli.main(["export", str(second), str(tmp_path / "out")]) == 0


def test_adapters_that_cannot_be_trained_on(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    policy = PolicyConfig(path=str(model_folder("llama")), lora=Lora(rank=3))
    export(Policy(policy), tokenizer(), tmp_path / "adapter", adapter=True)
    with pytest.raises(ValueError, match=r"policy.lora.rank is 4, but the adapter .* has 3. Leave it out"):
        PolicyConfig(lora=Lora(rank=4, from_adapter=str(tmp_path / "adapter")))
    with pytest.raises(ValueError, match=r"policy.lora.from_adapter is './nothing': no adapter can be read there"):
        PolicyConfig(lora=Lora(from_adapter="./nothing"))
    path = tmp_path / "adapter" / "adapter_config.json"
    entries = json.loads(path.read_text())
    for change, said in (({"use_dora": True}, "use_dora True"), ({"bias": "all"}, "bias 'all'")):
        path.write_text(json.dumps(entries | change))
        with pytest.raises(ValueError, match=f"an adapter with {said}, which cannot be trained here"):
            PolicyConfig(lora=Lora(from_adapter=str(tmp_path / "adapter")))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_configuration_is_the_bases(architecture: str, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Dropout that was off in training is no property of the model."""
    base = model_folder(architecture)
    policy = Policy(PolicyConfig(path=str(base)))
    export(policy, tokenizer(), tmp_path / "out")
    written, published = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", base))
    for config in (written, published):
        config.pop("transformers_version", None)
    assert written == published
    if architecture == "gpt2":
        assert (policy.model.config.resid_pdrop, written["resid_pdrop"]) == (0.0, 0.1)


def test_a_checkpoint_with_objects_is_read_where_it_is_trusted(
    model_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(tmp_path / "run", model__policy__path=model_folder("llama"), **TRAIN)
    torch.save(checkpoint(run) | {"mine": Path("here")}, run / "checkpoints" / "last.ckpt")
    words = ["export", str(run), str(tmp_path / "out")]
    assert cli.main(words) == 2
    assert "--weights_only=false" in capsys.readouterr().err
    assert cli.main([*words, "--weights_only=false"]) == 0
