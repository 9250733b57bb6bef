"""Mistakes that people make, each run through the command line, and the table of what ``lgrpo`` answers.

``python -m tests.integration.bad_inputs`` writes ``docs/errors.md``; ``test_bad_input.py`` asserts every answer.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from lgrpo_lightning import cli, registry
from lgrpo_lightning.plugin_loading import DISABLE
from tests.models import make_model
from tests.runs import CONFIG, SMALL

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
ROWS = "".join(json.dumps({"prompt": f"{i}+1=", "answer": i + 1}) + "\n" for i in range(6))
CHAT = json.dumps({"prompt": [{"role": "user", "content": "1+1="}], "answer": 2}) + "\n"

REWARDS = '''"""Reward functions with one mistake each."""
threshold = 0.5
def brevity(completions, **columns):
    return [-len(c) for c in completions]
def by_level(completions, level):
    return [float(x) for x in level]
def positional(completions, answer, /):
    return [0.0] * len(completions)
def too_short(completions, **columns):
    return [1.0]
def infinite(completions, **columns):
    return [float("inf")] * len(completions)
def words(completions, **columns):
    return ["good"] * len(completions)
def divides(completions, **columns):
    return [1 / 0 for c in completions]
def forgets(completions, **columns):
    [0.0] * len(completions)
'''


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """One mistake.

    Attributes:
        did: What was done, in Markdown.
        says: What the answer has to contain.
        config: Dotted key → value in the YAML file; None takes the key out.
        flags: Words on the command line after the config.
        files: Name → content of files in the working folder.
        prepare: Does the rest in the working folder.
        yaml: The whole text of the YAML file in place of the quickstart's.
        rollouts: Whether the mistake can only be seen once completions exist.
        ours: Whether every word of the answer is this library's own; others change with their packages, so
            they are not on the page.
        during: A context in which the run is made.
    """

    did: str
    says: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], object] | None = None
    yaml: str | None = None
    rollouts: bool = False
    ours: bool = True
    during: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a bad input: exit status, message, everything printed, whether rollouts were written."""

    status: int
    message: str
    printed: str
    rollouts: bool


def component(name: str, **init_args: Any) -> dict[str, Any]:
    """A component as YAML has it."""
    return {"class_path": name, "init_args": init_args} if init_args else {"class_path": name}


def function(name: str, **init_args: Any) -> dict[str, Any]:
    """``model.reward_model``: a function of the working folder."""
    return {"model.reward_model": component("RewardFunction", function=f"my_rewards.{name}", **init_args)}


def own(path: str = "prompts.jsonl", **init_args: Any) -> dict[str, Any]:
    """``data.train``: a file."""
    return {"data.train": component("PromptFile", path=path, **init_args)}


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


COMPONENTS = {
    "no reward model": BadInput(
        says=("model.reward_model is not set", "Installed: ExactMatch"),
        did="no `model.reward_model` at all",
        config={"model.reward_model": None},
    ),
    "sampler": BadInput(
        says=("run.yaml, line", "model.sampler", "Did you mean 'TransformersSampler'"),
        did="`model.sampler: TransformerSampler`",
        config={"model.sampler": "TransformerSampler"},
    ),
    "segmenter": BadInput(
        says=("run.yaml, line", "model.segmenter", "Installed: DelimiterSegmenter, TokenPrefixSegmenter"),
        did="`model.segmenter: Paragraphs`",
        config={"model.segmenter": "Paragraphs"},
    ),
    "reward model": BadInput(
        says=("run.yaml, line", "model.reward_model", "Did you mean 'ExactMatch'"),
        did="`model.reward_model: ExactMach`",
        config={"model.reward_model": "ExactMach"},
    ),
    "estimator": BadInput(
        says=("command line", "model.advantage_estimator", "Did you mean 'LambdaGRPO'"),
        did="`--model.advantage_estimator=LamdaGRPO`",
        flags=("--model.advantage_estimator=LamdaGRPO",),
    ),
    "estimator, class_path": BadInput(
        says=("run.yaml, line", "'PPO'", "Installed: GRPO, LambdaGRPO"),
        did="`model.advantage_estimator: {class_path: PPO}`",
        config={"model.advantage_estimator": component("PPO")},
    ),
    "prompt source": BadInput(
        says=("run.yaml, line", "data.train", "Did you mean 'ArithmeticTasks'"),
        did="`data.train: {class_path: ArithmeticTask}`",
        config={"data.train": component("ArithmeticTask")},
    ),
    "prompt source by name": BadInput(
        says=("data.train", "Did you mean 'ArithmeticTasks'"),
        did="`data.train: ArithmeticTask`",
        config={"data.train": "ArithmeticTask"},
    ),
    "component of another kind": BadInput(
        says=("model.reward_model", "is an advantage_estimator, not a reward_model", "ExactMatch"),
        did="`model.reward_model: LambdaGRPO`",
        config={"model.reward_model": "LambdaGRPO"},
    ),
    "second of several": BadInput(
        says=("run.yaml, line", "'FormatMach'", "Did you mean 'FormatMatch'"),
        did="`model.reward_model: [ExactMatch, FormatMach]`",
        config={"model.reward_model": ["ExactMatch", "FormatMach"]},
    ),
    "class path that leads nowhere": BadInput(
        says=("run.yaml, line", "model.reward_model", "'my_rewards.Judge'", "has no attribute 'Judge'"),
        did="`model.reward_model: my_rewards.Judge`",
        config={"model.reward_model": "my_rewards.Judge"},
    ),
    "required argument": BadInput(
        says=("run.yaml, line", "FormatMatch (model.reward_model) needs 'pattern'"),
        did="`model.reward_model: FormatMatch` (without its `pattern`)",
        config={"model.reward_model": "FormatMatch"},
    ),
}
KEYS = {
    "key of the module": BadInput(
        says=("run.yaml, line", "model has no option 'group_sise'", "Did you mean 'group_size'"),
        did="`model.group_sise: 8`",
        config={"model.group_sise": 8},
    ),
    "key of the module, flag": BadInput(
        says=("command line", "'group_sise'", "Did you mean 'group_size'"),
        did="`--model.group_sise=8`",
        flags=("--model.group_sise=8",),
    ),
    "key inside options": BadInput(
        says=("run.yaml, line", "model.sampling", "Did you mean 'temperature'", "top_p"),
        did="`model.sampling.temprature: 0.7`",
        config={"model.sampling.temprature": 0.7},
    ),
    "key of a component": BadInput(
        says=(
            "run.yaml, line",
            "ExactMatch (model.reward_model) has no option 'colum'",
            "Did you mean 'column'",
            "extract",
        ),
        did="`init_args: {colum: answer}` of `ExactMatch`",
        config={"model.reward_model": component("ExactMatch", colum="answer")},
    ),
    "key of a component in a list": BadInput(
        says=("run.yaml, line", "ExactMatch (model.reward_model[0])", "Did you mean 'column'"),
        did="the same in a list of reward models",
        config={"model.reward_model": [component("ExactMatch", colum="answer")]},
    ),
    "key of a component, flag": BadInput(
        says=("command line", "ExactMatch", "Did you mean 'column'"),
        did="`--model.reward_model.colum=answer`",
        flags=("--model.reward_model.colum=answer",),
    ),
    "key of the data": BadInput(
        says=("run.yaml, line", "data has no option", "Did you mean 'prompts_per_step'"),
        did="`data.prompt_per_step: 4`",
        config={"data.prompt_per_step": 4},
    ),
    "key of a prompt source": BadInput(
        says=("run.yaml, line", "ArithmeticTasks (data.train)", "Did you mean 'count'"),
        did="`init_args: {cuont: 10}` of `ArithmeticTasks`",
        config={"data.train": component("ArithmeticTasks", cuont=10)},
    ),
    "key of the trainer": BadInput(
        says=("run.yaml, line", "trainer has no option 'max_step'", "Did you mean 'max_steps'"),
        did="`trainer.max_step: 10`",
        config={"trainer.max_step": 10},
    ),
    "key at the top": BadInput(
        says=("run.yaml, line", "'modle.group_size'", "Did you mean 'model.group_size'"),
        did="`modle: …` at the top of the file",
        config={"modle": {"group_size": 8}},
    ),
    "key of the optimizer": BadInput(
        ours=False,
        says=("run.yaml, line", "AdamW (model.optimizer)", "'learning_rate'", "lr, betas"),
        did="`model.optimizer.init_args.learning_rate: 1e-5`",
        config={"model.optimizer": component("torch.optim.AdamW", learning_rate=1e-5)},
    ),
    "wrong type": BadInput(
        says=("run.yaml, line", "model.group_size is 'eight'", "a whole number"),
        did="`model.group_size: eight`",
        config={"model.group_size": "eight"},
    ),
    "wrong type of a component's argument": BadInput(
        says=("run.yaml, line", "correct of ExactMatch", "'right'", "a number"),
        did="`init_args: {correct: right}` of `ExactMatch`",
        config={"model.reward_model": component("ExactMatch", correct="right")},
    ),
    "not one of the choices": BadInput(
        says=("run.yaml, line", "'token', 'sequence', 'constant'", "Did you mean 'token'"),
        did="`model.loss.normalizer: tokens`",
        config={"model.loss.normalizer": "tokens"},
    ),
    "wrong type of nested options": BadInput(
        says=("run.yaml, line", "model.sampling.temperature is 'warm'", "a number"),
        did="`model.sampling.temperature: warm`",
        config={"model.sampling.temperature": "warm"},
    ),
    "no such file": BadInput(
        says=("confgs/mine.yaml", "no folder confgs"),
        did="`--config=confgs/mine.yaml`, which is not there",
        flags=("--config=confgs/mine.yaml",),
    ),
    "malformed YAML": BadInput(
        says=("run.yaml, line 3", "not valid YAML", "indentation"),
        did="YAML with a wrong indentation",
        yaml="model:\n  group_size: 8\n   sampling: {}\n",
    ),
    "no YAML": BadInput(
        says=("run.yaml is empty", "trainer, model and data"), did="an empty YAML file", yaml=""
    ),
}
DATA = {
    "no data": BadInput(
        says=("data.train is not set", "lgrpo fit", "ArithmeticTasks"),
        did="no `data.train` at all",
        config={"data.train": None},
    ),
    "missing data file": BadInput(
        says=("no file prompts.jsonl", "looked in"),
        did="`data.train: prompts.jsonl`, which is not there",
        config={"data.train": "prompts.jsonl"},
    ),
    "unknown extension": BadInput(
        says=("prompts.txt", ".jsonl, .parquet, .csv"),
        did="`data.train: prompts.txt`",
        config={"data.train": "prompts.txt"},
        files={"prompts.txt": "1+1="},
    ),
    "empty file": BadInput(
        says=("prompts.jsonl is empty", "'prompt'"),
        did="an empty `prompts.jsonl`",
        config=own(),
        files={"prompts.jsonl": ""},
    ),
    "malformed line": BadInput(
        says=("prompts.jsonl, line 3", "not valid JSON", '{"prompt"'),
        did="line 3 of `prompts.jsonl` is cut off",
        config=own(),
        files={"prompts.jsonl": ROWS[:70]},
    ),
    "not an object": BadInput(
        says=("prompts.jsonl, line 1", "a list", '{"prompt"'),
        did="line 1 of `prompts.jsonl` is a list",
        config=own(),
        files={"prompts.jsonl": '["1+1=", 2]\n'},
    ),
    "not UTF-8": BadInput(
        says=("prompts.jsonl, line 1", "not UTF-8", "column 13"),
        did="`prompts.jsonl` is in Latin-1",
        config=own(),
        prepare=lambda folder: (folder / "prompts.jsonl").write_bytes(
            '{"prompt": "é", "answer": 1}\n'.encode("latin-1")
        ),
    ),
    "missing prompt column": BadInput(
        says=("prompts.jsonl, row 0", "'question', 'answer'", "prompt_column"),
        did="the prompts are in a column `question`",
        config=own(),
        files={"prompts.jsonl": ROWS.replace('"prompt"', '"question"')},
    ),
    "empty prompt": BadInput(
        says=("prompts.jsonl, row 6", "empty"),
        did="the prompt of row 6 is empty",
        config=own(),
        files={"prompts.jsonl": ROWS + '{"prompt": "", "answer": 1}\n'},
    ),
    "missing reward column": BadInput(
        says=("prompts.jsonl, row 0", "'ExactMatch' needs a column 'answer'", "'solution'"),
        did="`ExactMatch` reads `answer`, the data has `solution`",
        config=own(),
        files={"prompts.jsonl": ROWS.replace('"answer"', '"solution"')},
    ),
    "missing column of a function": BadInput(
        says=("'by_level' needs a column 'level'", "'prompt', 'answer'"),
        did="a reward function with an argument `level`, which the data lacks",
        config=own() | function("by_level"),
        files={"prompts.jsonl": ROWS},
    ),
    "longer than the context": BadInput(
        says=("prompts.jsonl", "train/6 has 600 tokens", "at most 224", "long_prompts: drop"),
        did="a prompt longer than the model's context leaves room for",
        config=own(),
        files={"prompts.jsonl": ROWS + json.dumps({"prompt": "1+" * 300, "answer": 1}) + "\n"},
    ),
    "longer than max_prompt_length": BadInput(
        says=("train/0 has 4 tokens", "at most 3", "max_prompt_length"),
        did="`data.max_prompt_length: 3` and prompts of 4 tokens",
        config=own() | {"data.max_prompt_length": 3},
        files={"prompts.jsonl": ROWS},
    ),
    "chat without template": BadInput(
        says=("prompts.jsonl, row 0", "has no chat template", "instruction-tuned"),
        did="a prompt that is a list of messages, for a model without a chat template",
        config=own() | {"model.policy.path": "model"},
        files={"prompts.jsonl": CHAT * 4},
        prepare=lambda folder: make_model("llama", folder / "model"),
    ),
    "fewer prompts than a step": BadInput(
        says=("data.prompts_per_step is 16", "only 6 prompts", "at most 6"),
        did="`data.prompts_per_step: 16` with 6 prompts",
        config=own() | {"data.prompts_per_step": 16},
        files={"prompts.jsonl": ROWS},
    ),
    "no split": BadInput(
        says=("prompts.jsonl", "split='train'", "Leave split out"),
        did="`split: train` of a file",
        config=own(split="train"),
        files={"prompts.jsonl": ROWS},
    ),
    "hub offline": BadInput(
        ours=False,
        says=("openai/gsm8k", "neither a file"),
        did="`data.train: openai/gsm8k` without a network",
        config={"data.train": "openai/gsm8k"},
    ),
}
SETTINGS = {
    "group of one": BadInput(
        says=("model.group_size is 1", "at least 2"),
        did="`model.group_size: 1`",
        config={"model.group_size": 1},
    ),
    "temperature 0": BadInput(
        says=("sampling.temperature is 0", "above 0", "validation.greedy"),
        did="`model.sampling.temperature: 0`",
        config={"model.sampling.temperature": 0.0},
    ),
    "top_p": BadInput(
        says=("sampling.top_p is 90", "at most 1"),
        did="`model.sampling.top_p: 90`",
        config={"model.sampling.top_p": 90.0},
    ),
    "context": BadInput(
        says=("sampling.max_new_tokens is 4096", "context is 256", "less than 256"),
        did="`model.sampling.max_new_tokens: 4096`",
        config={"model.sampling.max_new_tokens": 4096},
    ),
    "mini-batches": BadInput(
        says=("data.prompts_per_step is 4", "3 mini-batches", "Use 3 or 6"),
        did="`data.prompts_per_step: 4` with `model.updates.mini_batches: 3`",
        config={"data.prompts_per_step": 4, "model.updates.mini_batches": 3},
    ),
    "reward weights": BadInput(
        says=("reward_weights are 2", "ExactMatch", "one weight per model"),
        did="two `reward_weights` for one reward model",
        config={"model.reward_weights": [1.0, 0.5]},
    ),
    "endless schedule": BadInput(
        says=("schedule.name 'cosine'", "trainer.max_steps"),
        did="`model.schedule.name: cosine` in a run without an end",
        config={"model.schedule.name": "cosine", "trainer.max_steps": None},
    ),
    "unknown schedule": BadInput(
        ours=False,
        says=("schedule.name is 'cosin'", "linear, cosine"),
        did="`model.schedule.name: cosin`",
        config={"model.schedule.name": "cosin"},
    ),
    "gradient clipping": BadInput(
        says=("trainer.gradient_clip_val", "model.updates.gradient_clip_val"),
        did="`trainer.gradient_clip_val: 1.0`",
        config={"trainer.gradient_clip_val": 1.0},
    ),
    "accumulation": BadInput(
        says=("trainer.accumulate_grad_batches", "model.policy.micro_batch_tokens"),
        did="`trainer.accumulate_grad_batches: 4`",
        config={"trainer.accumulate_grad_batches": 4},
    ),
    "fsdp": BadInput(
        says=("trainer.strategy is 'fsdp'", "not supported", "ddp"),
        did="`trainer.strategy: fsdp`",
        config={"trainer.strategy": "fsdp"},
    ),
    "deepspeed": BadInput(
        says=("trainer.strategy is 'deepspeed'", "not supported", "ddp"),
        did="`trainer.strategy: deepspeed`",
        config={"trainer.strategy": "deepspeed"},
    ),
    "unknown strategy": BadInput(
        says=("trainer.strategy is 'dpp'", "does not exist", "ddp"),
        did="`trainer.strategy: dpp`",
        config={"trainer.strategy": "dpp"},
    ),
    "gpu": BadInput(
        says=("trainer.accelerator is 'gpu'", "no GPU", "cpu"),
        did="`trainer.accelerator: gpu` on a machine without one",
        config={"trainer.accelerator": "gpu"},
        during=lambda: mock.patch("torch.cuda.is_available", return_value=False),
    ),
    "folder": BadInput(
        says=("trainer.default_root_dir is 'notes.txt/run'", "Not a directory"),
        did="`trainer.default_root_dir` below a file",
        config={"trainer.default_root_dir": "notes.txt/run"},
        files={"notes.txt": ""},
    ),
    "checkpoint": BadInput(
        says=("--ckpt_path", "checkpoints/lost.ckpt", "run/checkpoints holds none"),
        did="`--ckpt_path=checkpoints/lost.ckpt`",
        flags=("--ckpt_path=checkpoints/lost.ckpt",),
    ),
}
REWARD = {
    "no such function": BadInput(
        says=("'my_rewards.brevty'", "Did you mean 'brevity'"),
        did="`function: my_rewards.brevty`",
        config=function("brevty"),
    ),
    "no such module": BadInput(
        says=("no module 'rewards_of_mine'", "working directory"),
        did="`function: rewards_of_mine.brevity`",
        config={"model.reward_model": component("RewardFunction", function="rewards_of_mine.brevity")},
    ),
    "no path": BadInput(
        says=("'brevity' is no import path", "package.module.function"),
        did="`function: brevity`",
        config={"model.reward_model": component("RewardFunction", function="brevity")},
    ),
    "no function": BadInput(
        says=("RewardFunction needs a function", "threshold"),
        did="`function: my_rewards.threshold`, a number",
        config=function("threshold"),
    ),
    "wrong signature": BadInput(
        says=("'positional'", "by position only", "by keyword"),
        did="a function that takes its arguments by position only",
        config=function("positional"),
    ),
    "kwargs": BadInput(
        says=("'by_level'", "treshold", "it takes ['level']"),
        did="`kwargs: {treshold: 1}` for a function without such an argument",
        config=function("by_level", kwargs={"treshold": 1}),
    ),
    "too few": BadInput(
        says=("'too_short' returned 1 values", "8 numbers"),
        did="a function that returns one number for all completions",
        config=function("too_short"),
        rollouts=True,
    ),
    "nothing": BadInput(
        says=("'forgets' returned a NoneType", "8 numbers"),
        did="a function without a `return`",
        config=function("forgets"),
        rollouts=True,
    ),
    "infinite": BadInput(
        says=("'infinite'", "prompt 'train/", "finite"),
        did="a function that returns `inf`",
        config=function("infinite"),
        rollouts=True,
    ),
    "words": BadInput(
        says=("'words' returned 'good'", "completion 0 of prompt 'train/", "8 numbers"),
        did="a function that returns words",
        config=function("words"),
        rollouts=True,
    ),
    "exception": BadInput(
        says=(
            "'divides' failed with ZeroDivisionError",
            "my_rewards.py, line 16",
            "the first prompts: train/",
        ),
        did="a function that raises",
        config=function("divides"),
        rollouts=True,
    ),
    "regular expression": BadInput(
        says=("FormatMatch: pattern is '('", "regular expression"),
        did='`pattern: "("` of `FormatMatch`',
        config={"model.reward_model": component("FormatMatch", pattern="(")},
    ),
    "no answer": BadInput(
        says=("ExactMatch: prompt 'train/5'", "column 'answer'"),
        did="`answer` of one row is null",
        config=own(),
        files={"prompts.jsonl": ROWS.replace("6}", "null}")},
        rollouts=True,
    ),
}
MODEL = {
    "no such package model": BadInput(
        says=("policy.path is 'lgrpo:arithmetics'", "lgrpo:arithmetic, lgrpo:smollm2"),
        did="`model.policy.path: lgrpo:arithmetics`",
        config={"model.policy.path": "lgrpo:arithmetics"},
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
        says=("policy.model_kwargs has load_in_4bit", "bfloat16"),
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
SECTIONS: dict[str, dict[str, BadInput]] = {
    "Components": COMPONENTS,
    "Configuration files and flags": KEYS,
    "Data": DATA,
    "Settings": SETTINGS,
    "Rewards": REWARD,
    "Models": MODEL,
}
CASES: dict[str, BadInput] = {name: case for cases in SECTIONS.values() for name, case in cases.items()}


def configured(changes: Mapping[str, Any]) -> str:
    """The quickstart, made small, with changes under dotted keys."""
    config = yaml.safe_load(CONFIG.read_text())
    small = {k: v for k, v in SMALL.items() if ".init_args." not in k}
    for key, value in {
        "model.policy.path": "lgrpo:arithmetic",
        **small,
        "trainer.default_root_dir": "run",
        "trainer.limit_val_batches": 0,
        **changes,
    }.items():
        *parents, last = key.split(".")
        place = config
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = False if value == "false" else value
        if value is None:
            del place[last]
    return yaml.safe_dump(config, sort_keys=False)


@functools.cache
def answer(name: str) -> Answer:
    """Run ``lgrpo fit`` on a bad input in a folder of its own; once a process."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as temporary, working_folder(Path(temporary).resolve()) as folder:
        (folder / "run.yaml").write_text(configured(case.config) if case.yaml is None else case.yaml)
        (folder / "my_rewards.py").write_text(REWARDS)
        for path, content in case.files.items():
            (folder / path).write_text(content)
        if case.prepare:
            case.prepare(folder)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), case.during():
            status = cli.main(["fit", "--config=run.yaml", *case.flags])
        printed = err.getvalue().replace(str(folder), "…")
        at = printed.rfind("lgrpo: ")
        return Answer(
            status=status,
            message=printed[at:].strip() if at >= 0 else "",
            printed=out.getvalue() + printed,
            rollouts=any(folder.rglob("*.parquet")),
        )


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[Path]:
    """Work there, with the built-in components alone and without a network; then as before."""
    before = Path.cwd()
    others = {e.dist.name for e in entry_points(group="lgrpo_lightning") if e.dist} - {"lgrpo_lightning"}
    environment = {DISABLE: ",".join(others), "HF_HUB_OFFLINE": "1", "LGRPO_TRACEBACK": ""}
    with mock.patch.dict(os.environ, environment), mock.patch.object(sys, "path", list(sys.path)):
        registry.components.cache_clear()
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)
            sys.modules.pop("my_rewards", None)
            registry.components.cache_clear()


HEAD = """\
# What lgrpo says when something is wrong

Mistakes stop a run before its first step wherever they can be seen by then, with exit status 2 and one message
that names the file and line, the key or the column, and what is possible. Everything below was run by the tests:
each row is a mistake and the message it gives (`run.yaml` is the configuration, `…` the working folder). Messages
marked ▸ need completions, so they come with a rollout; what the run had done by then is on disk.

An error without `lgrpo:` in front, with a traceback, is a bug in the library or in a component of yours.
`LGRPO_TRACEBACK=1` shows the traceback of every error."""


def page() -> str:
    """The text of ``docs/errors.md``."""
    parts = [HEAD]
    for title, cases in SECTIONS.items():
        rows = [
            f"| {_cell(c.did)}{' ▸' if c.rollouts else ''} | {_cell(_said(name))} |"
            for name, c in cases.items()
            if c.ours
        ]
        parts += [f"\n## {title}\n", "| What was done | What lgrpo says |", "|---|---|", *rows]
    return "\n".join(parts) + "\n"


def _said(name: str) -> str:
    """The message as code, which Markdown leaves alone."""
    lines = answer(name).message.removeprefix("lgrpo: ").splitlines()
    return "<br>".join(f"`` {line.strip()} ``" if "`" in line else f"`{line.strip()}`" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
