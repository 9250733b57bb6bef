"""What a model folder may hold: noise in training, router losses, tokenizers without ends, code, pickles."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from lgrpo_lightning import cli
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.loading import load_config, load_model, load_tokenizer
from lgrpo_lightning.policy.verification import verify
from tests.models import SMALL, make_model, tokenizer
from tests.policy.test_merging import folder_of
from tests.policy.test_policy import rows
from tests.runs import fit, lgrpo

NOISY = {
    "mixtral": {"router_jitter_noise": 0.4},
    "phimoe": {"router_jitter_noise": 0.4, "input_jitter_noise": 0.4},
}


def edited(folder: Path, **changes: Any) -> Path:
    """The model with other entries in its config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


# ------------------------------------------------------------------------------------------ noise in training


@pytest.mark.parametrize("architecture", NOISY)
def test_router_jitter_is_off(architecture: str, tmp_path: Path) -> None:
    folder = edited(folder_of(architecture, tmp_path), **NOISY[architecture], attention_dropout=0.3)
    loud = AutoModelForCausalLM.from_pretrained(folder).train()
    ids = torch.arange(3, 11)[None]
    assert not torch.equal(loud(ids).logits, loud(ids).logits)
    policy = Policy(PolicyConfig(path=str(folder)))
    verify(policy, *rows())
    assert torch.equal(policy(*rows()).logprobs, policy(*rows()).logprobs)


def test_every_kind_of_noise_in_a_configuration(tmp_path: Path) -> None:
    noise = {"layerdrop": 0.1, "drop_path_rate": 0.1, "residual_dropout": 1, "router_jitter_noise": 0.1}
    folder = edited(make_model("llama", tmp_path), **noise, drop_last=True, attention_dropout=0.3)
    text = load_config(PolicyConfig(path=str(folder))).get_text_config()
    assert {name: getattr(text, name) for name in noise} == dict.fromkeys(noise, 0.0)
    assert text.drop_last is True
    kept = load_config(PolicyConfig(path=str(folder), dropout=0.2))
    assert (kept.attention_dropout, kept.router_jitter_noise) == (0.2, 0.0)


class Shaky(nn.Module):
    """Adds noise in training, whatever the configuration says."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + torch.randn_like(hidden) if self.training else hidden


def test_noise_that_nobody_knows_is_found(model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama"))))
    policy.model.model.norm = nn.Sequential(policy.model.model.norm, Shaky())
    with pytest.raises(ValueError, match=r"two passes .* in training mode differ .* policy.dropout is 0"):
        verify(policy, *rows())
    fixed = Policy(PolicyConfig(path=str(model_folder("llama"))))
    fixed.model.model.norm = nn.Sequential(fixed.model.model.norm, nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"It draws noise from model.norm.1 \(p = 0.5\)"):
        verify(fixed, *rows())


# ------------------------------------------------------------------------------------------ router losses


def test_router_outputs(tmp_path: Path) -> None:
    folder = edited(folder_of("mixtral", tmp_path / "model"), output_router_logits=True, router_aux_loss_coef=0.02)
    with pytest.warns(UserWarning, match=r"output_router_logits \(router_aux_loss_coef: 0.02\)"):
        fit(
            tmp_path / "run", model__policy__path=folder, trainer__max_steps=1, trainer__limit_val_batches=1,
            model__validation__k=1, model__sampling__max_new_tokens=8,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------ tokenizers


def test_a_tokenizer_without_pad_and_end(tmp_path: Path) -> None:
    folder = make_model("llama", tmp_path / "model")
    made = tokenizer()
    made.pad_token = made.eos_token = None
    made.save_pretrained(folder)
    assert load_tokenizer(PolicyConfig(path=str(folder))).pad_token_id is None
    fit(tmp_path / "run", model__policy__path=folder, trainer__max_steps=1, model__sampling__max_new_tokens=8)


def test_a_tokenizer_without_pad_pads_with_its_end(tmp_path: Path) -> None:
    made = tokenizer()
    made.pad_token = None
    folder = make_model("llama", tmp_path / "model")
    made.save_pretrained(folder)
    loaded = load_tokenizer(PolicyConfig(path=str(folder)))
    assert loaded.pad_token_id == loaded.eos_token_id is not None


def test_a_tokenizer_larger_than_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_model("llama", tmp_path / "model")
    made = tokenizer()
    made.add_tokens(["<think>", "<tool>"], special_tokens=True)
    made.save_pretrained(folder)
    rows = [{"prompt": p, "answer": 3} for p in ("1+2=", "<think>1+2=", "2+1=")]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    common = {
        "model__policy__path": folder, "trainer__max_steps": 1, "data__train": data, "data__prompts_per_step": 1,
        "model__sampling__max_new_tokens": 8, "data__train__init_args__count": None,
    }  # fmt: skip
    assert lgrpo("fit", tmp_path / "run", **common | {"data.train.init_args.count": None}) == 2
    said = capsys.readouterr().err
    assert "row 1 (from 0)" in said
    assert f"has token {len(made) - 2} ('<think>')" in said
    data.write_text("\n".join(map(json.dumps, rows[::2])))
    fit(tmp_path / "run", **common | {"data.train.init_args.count": None})


# ------------------------------------------------------------------------------------------ code and pickles


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize("what", ["config", "tokenizer"])
def test_code_of_a_model_is_not_run(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model("llama", tmp_path / "model")
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    if what == "config":
        auto = {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.MyModel"}
        edited(folder, model_type="mine", auto_map=auto)
    else:
        path = folder / "tokenizer_config.json"
        entries = {
            "tokenizer_class": "MyTokenizer",
            "auto_map": {"AutoTokenizer": ["mine.MyTokenizer", None]},
        }
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    monkeypatch.setattr(sys.stdin, "readline", lambda: pytest.fail("it asks"), raising=False)
    monkeypatch.setattr("builtins.input", lambda *text: pytest.fail("it asks"))
    assert lgrpo("fit", tmp_path / "run", model__policy__path=folder) == 2
    said = capsys.readouterr()
    assert "policy.model_kwargs: {trust_remote_code: true}" in said.err
    assert "y/N" not in said.out + said.err


def test_code_of_a_model_is_run_where_it_is_trusted(tmp_path: Path) -> None:
    folder = make_model("llama", tmp_path / "model")
    (folder / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class MyConfig(LlamaConfig):\n    model_type = 'mine'\n"
        "class MyModel(LlamaForCausalLM):\n    config_class = MyConfig\n"
    )
    auto = {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.MyModel"}
    edited(folder, model_type="mine", auto_map=auto)
    model = load_model(PolicyConfig(path=str(folder), model_kwargs={"trust_remote_code": True}))
    assert type(model).__name__ == "MyModel"


def test_weights_that_are_a_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_model("llama", tmp_path / "model")
    weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights | {"evil": Evil()}, folder / "pytorch_model.bin")
    assert lgrpo("fit", tmp_path / "run", model__policy__path=folder) == 2
    said = capsys.readouterr().err
    assert "could run code" in said
    assert "weights_only=False" not in said
    torch.save(weights, folder / "pytorch_model.bin")
    assert Policy(PolicyConfig(path=str(folder))).model is not None


@pytest.mark.parametrize("command", ["fit", "validate", "export"])
def test_a_checkpoint_that_is_a_pickle(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(tmp_path / "run", trainer__max_steps=1, model__sampling__max_new_tokens=8)
    path = run / "checkpoints" / "last.ckpt"
    torch.save(torch.load(path, weights_only=True) | {"evil": Evil()}, path)
    if command == "export":
        status = cli.main(["export", str(run), str(tmp_path / "out")])
    else:
        status = lgrpo(command, run, ckpt_path=path)
    assert status == 2
    said = capsys.readouterr().err
    assert "holds Python objects" in said
    assert "--weights_only=false" in said
    assert "Traceback" not in said


# ------------------------------------------------------------------------------------------ model_kwargs


def test_entries_of_config_json(model_folder: Callable[..., Path]) -> None:
    kwargs = {"rms_norm_eps": 0.5, "use_cache": False, "low_cpu_mem_usage": True}
    model = load_model(PolicyConfig(path=str(model_folder("llama")), model_kwargs=kwargs))
    assert model.config.rms_norm_eps == model.model.norm.variance_epsilon == 0.5
    with pytest.raises(ValueError, match=r"lacks weights of the model: .*k_proj.bias"):
        load_model(PolicyConfig(path=str(model_folder("llama")), model_kwargs={"attention_bias": True}))
    with pytest.raises(ValueError, match="model_kwargs has 'rms_norm_epsilon', which is neither an entry"):
        load_model(PolicyConfig(path=str(model_folder("llama")), model_kwargs={"rms_norm_epsilon": 0.5}))


def test_entries_of_the_language_part(tmp_path: Path) -> None:
    config = transformers.Gemma3Config(
        text_config=SMALL | {"head_dim": 16, "sliding_window": 8}, vision_config={"num_hidden_layers": 1}
    )
    config.save_pretrained(tmp_path)
    made = load_config(PolicyConfig(path=str(tmp_path), model_kwargs={"rms_norm_eps": 0.5}))
    assert made.get_text_config().rms_norm_eps == 0.5
