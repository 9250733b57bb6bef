"""Models that cannot be loaded or trained."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.integration.mistakes.case import BadInput, own
from tests.models import make_model, tokenizer


def no_eos(folder: Path) -> None:
    """A model ``endless/`` whose completions cannot end."""
    make_model("llama", folder / "endless")
    for name, entry in {"config.json": "eos_token_id", "tokenizer_config.json": "eos_token"}.items():
        path = folder / "endless" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {entry: None}))
    (folder / "endless" / "generation_config.json").unlink()


def edited_config(folder: Path, **changes: Any) -> None:
    """A tiny model ``model/`` with other entries in its ``config.json``."""
    path = make_model("llama", folder / "model") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_code(folder: Path) -> None:
    """A model ``model/`` that brings Python code."""
    auto = {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.MyModel"}
    edited_config(folder, model_type="mine", auto_map=auto)
    (folder / "model" / "mine.py").write_text("raise SystemExit('it ran')")


def with_objects(folder: Path) -> None:
    """A model ``model/`` whose weights are a pickle of more than tensors."""
    import torch

    path = make_model("llama", folder / "model")
    (path / "model.safetensors").unlink()
    torch.save({"weights": folder}, path / "pytorch_model.bin")


def large_tokenizer(folder: Path) -> None:
    """A model ``model/`` with more tokens than embeddings, and a prompt with one of them."""
    path = make_model("llama", folder / "model")
    made = tokenizer()
    made.add_tokens(["<think>"], special_tokens=True)
    made.save_pretrained(path)
    rows = [{"prompt": text, "answer": 3} for text in ("1+2=", "<think>1+2=")]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextlib.contextmanager
def missing(*modules: str) -> Iterator[None]:
    """Nothing of these names can be imported or found."""
    import importlib.util

    found = importlib.util.find_spec
    hidden = lambda name, *rest: None if name in modules else found(name, *rest)  # noqa: E731
    with mock.patch.dict(sys.modules, dict.fromkeys(modules)):
        import lgrpo_lightning.policy.lora as lora

        with mock.patch.object(lora, "find_spec", hidden):
            yield


MODEL = {
    "code of its own": BadInput(
        says=("policy.path is 'model'", "not run unasked", "trust_remote_code: true"),
        did="a model folder with Python code (`auto_map`)",
        prepare=with_code,
        config={"model.policy.path": "model"},
    ),
    "weights that hold objects": BadInput(
        says=("policy.path is 'model'", "could run code", "model.safetensors"),
        did="a `pytorch_model.bin` that holds more than tensors",
        prepare=with_objects,
        config={"model.policy.path": "model"},
    ),
    "tokenizer larger than the model": BadInput(
        says=("row 1 (from 0)", "'<think>'", "policy.tokenizer"),
        did="a prompt with a token that the model has no embedding for",
        prepare=large_tokenizer,
        config={"model.policy.path": "model", **own()},
    ),
    "no such package model": BadInput(
        says=("policy.path is 'lgrpo:arithmetics'", "lgrpo:arithmetic, lgrpo:toy, lgrpo:smollm2"),
        did="`model.policy.path: lgrpo:arithmetics`",
        config={"model.policy.path": "lgrpo:arithmetics"},
    ),
    "no such end": BadInput(
        says=("policy.extra_eos_tokens has '<|im_end|>'", "no token of the tokenizer", "sampling.stop"),
        did="`model.policy.extra_eos_tokens: [<|im_end|>]`, which the tokenizer does not know",
        config={"model.policy.extra_eos_tokens": ["<|im_end|>"]},
    ),
    "no token to suppress": BadInput(
        says=("policy.suppress_tokens has '<|image|>'", "no token of the tokenizer"),
        did="`model.policy.suppress_tokens: [<|image|>]`, which the tokenizer does not know",
        config={"model.policy.suppress_tokens": ["<|image|>"]},
    ),
    "nothing left to draw": BadInput(
        says=("policy.suppress_tokens leaves fewer than two tokens",),
        did="`model.policy.suppress_tokens: [0, 1, …]`, all of them",
        config={"model.policy.suppress_tokens": list(range(99))},
    ),
    "no such weights": BadInput(
        says=("weights", "pretrained", "random"),
        did="`model.policy.weights: new`",
        config={"model.policy.weights": "new"},
    ),
    "no such end id": BadInput(
        says=("policy.eos_tokens has 4711", "from 0 to 98"),
        did="`model.policy.eos_tokens: [4711]`",
        config={"model.policy.eos_tokens": [4711]},
    ),
    "no such folder": BadInput(
        says=("policy.path is './models/mine'", "no such folder", "config.json"),
        did="`model.policy.path: ./models/mine`, which is not there",
        config={"model.policy.path": "./models/mine"},
    ),
    "hub without network": BadInput(
        ours=False,
        says=("policy.path is 'Qwen/Qwen2.5-0.5B'", "HF_HUB_OFFLINE", "lgrpo:arithmetic"),
        did="`model.policy.path: Qwen/Qwen2.5-0.5B` without a network",
        config={"model.policy.path": "Qwen/Qwen2.5-0.5B"},
    ),
    "empty folder": BadInput(
        says=("policy.path is './empty'", "lacks config.json"),
        did="`model.policy.path` is a folder without a model",
        config={"model.policy.path": "./empty"},
        prepare=lambda folder: (folder / "empty").mkdir(),
    ),
    "folder without tokenizer": BadInput(
        says=("policy.path is './model'", "lacks tokenizer_config.json", "model.safetensors"),
        did="a model folder without its tokenizer",
        config={"model.policy.path": "./model"},
        prepare=lambda folder: (
            make_model("llama", folder / "model"),
            [p.unlink() for p in (folder / "model").glob("tokenizer*")],
        ),
    ),
    "unknown architecture": BadInput(
        ours=False,
        says=("policy.path is './model'", "`quark`"),
        did="a model of an architecture that transformers does not know",
        config={"model.policy.path": "./model"},
        prepare=lambda folder: edited_config(folder, model_type="quark"),
    ),
    "no end of sequence": BadInput(
        says=("'./endless' has no end-of-sequence token", "generation_config.json"),
        did="a model without an end-of-sequence token",
        config={"model.policy.path": "./endless"},
        prepare=no_eos,
    ),
    "quantised": BadInput(
        says=("policy.path is './model'", "quantised", "bfloat16"),
        did="a quantised model",
        config={"model.policy.path": "./model"},
        prepare=lambda folder: edited_config(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
    ),
    "quantised on loading": BadInput(
        says=("policy.model_kwargs has load_in_4bit", "policy.quantization: nf4"),
        did="`model.policy.model_kwargs: {load_in_4bit: true}`",
        config={"model.policy.model_kwargs": {"load_in_4bit": True}},
    ),
    "lora without peft": BadInput(
        says=("policy.lora needs peft", "pip install"),
        did="`model.policy.lora.rank: 8` without peft",
        config={"model.policy.lora.rank": 8},
        during=lambda: missing("peft"),
    ),
    "lora targets": BadInput(
        says=("policy.lora.targets is ['query']", "q_proj", "all-linear"),
        did="`model.policy.lora.targets: [query]`, of which the model has none",
        config={"model.policy.lora.targets": ["query"]},
    ),
    "attention": BadInput(
        ours=False,
        says=("policy.path is", '`attn_implementation="flash"`', "eager"),
        did="`model.policy.attn_implementation: flash`",
        config={"model.policy.attn_implementation": "flash"},
    ),
    "model_kwargs": BadInput(
        ours=False,
        says=("policy.model_kwargs has 'use_cash'", "from_pretrained"),
        did="`model.policy.model_kwargs: {use_cash: false}`",
        config={"model.policy.model_kwargs": {"use_cash": False}},
    ),
}
