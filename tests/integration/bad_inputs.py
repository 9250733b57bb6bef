"""Mistakes that people make, each run through the command line, and the table of what ``lgrpo`` answers.

``python -m tests.integration.bad_inputs`` writes ``docs/errors.md``; ``test_bad_input.py`` asserts every answer.
"""

from __future__ import annotations

import contextlib
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
    """A model whose completions cannot end."""
    make_model("llama", folder / "endless")
    for name, keys in {"config.json": ["eos_token_id"], "tokenizer_config.json": ["eos_token"]}.items():
        path = folder / "endless" / name
        content = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in content.items() if k not in keys}))
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
    "sampler": BadInput(
        did="`model.sampler: TransformerSampler`", config={"model.sampler": "TransformerSampler"}
    ),
    "segmenter": BadInput(did="`model.segmenter: Paragraphs`", config={"model.segmenter": "Paragraphs"}),
    "reward model": BadInput(
        did="`model.reward_model: ExactMach`", config={"model.reward_model": "ExactMach"}
    ),
    "estimator": BadInput(
        did="`--model.advantage_estimator=LamdaGRPO`", flags=("--model.advantage_estimator=LamdaGRPO",)
    ),
    "estimator, class_path": BadInput(
        did="`model.advantage_estimator: {class_path: PPO}`",
        config={"model.advantage_estimator": component("PPO")},
    ),
    "prompt source": BadInput(
        did="`data.train: {class_path: ArithmeticTask}`", config={"data.train": component("ArithmeticTask")}
    ),
    "prompt source by name": BadInput(
        did="`data.train: ArithmeticTask`", config={"data.train": "ArithmeticTask"}
    ),
    "component of another kind": BadInput(
        did="`model.reward_model: LambdaGRPO`", config={"model.reward_model": "LambdaGRPO"}
    ),
    "second of several": BadInput(
        did="`model.reward_model: [ExactMatch, FormatMach]`",
        config={"model.reward_model": ["ExactMatch", "FormatMach"]},
    ),
    "class path that leads nowhere": BadInput(
        did="`model.reward_model: my_rewards.Judge`",
        config={"model.reward_model": "my_rewards.Judge"},
    ),
    "required argument": BadInput(
        did="`model.reward_model: FormatMatch` (without its `pattern`)",
        config={"model.reward_model": "FormatMatch"},
    ),
}
KEYS = {
    "key of the module": BadInput(did="`model.group_sise: 8`", config={"model.group_sise": 8}),
    "key of the module, flag": BadInput(did="`--model.group_sise=8`", flags=("--model.group_sise=8",)),
    "key inside options": BadInput(
        did="`model.sampling.temprature: 0.7`", config={"model.sampling.temprature": 0.7}
    ),
    "key of a component": BadInput(
        did="`init_args: {colum: answer}` of `ExactMatch`",
        config={"model.reward_model": component("ExactMatch", colum="answer")},
    ),
    "key of a component in a list": BadInput(
        did="the same in a list of reward models",
        config={"model.reward_model": [component("ExactMatch", colum="answer")]},
    ),
    "key of a component, flag": BadInput(
        did="`--model.reward_model.colum=answer`", flags=("--model.reward_model.colum=answer",)
    ),
    "key of the data": BadInput(did="`data.prompt_per_step: 4`", config={"data.prompt_per_step": 4}),
    "key of a prompt source": BadInput(
        did="`init_args: {cuont: 10}` of `ArithmeticTasks`",
        config={"data.train": component("ArithmeticTasks", cuont=10)},
    ),
    "key of the trainer": BadInput(did="`trainer.max_step: 10`", config={"trainer.max_step": 10}),
    "key at the top": BadInput(did="`modle: …` at the top of the file", config={"modle": {"group_size": 8}}),
    "key of the optimizer": BadInput(
        did="`model.optimizer.init_args.learning_rate: 1e-5`",
        config={"model.optimizer": component("torch.optim.AdamW", learning_rate=1e-5)},
    ),
    "wrong type": BadInput(did="`model.group_size: eight`", config={"model.group_size": "eight"}),
    "wrong type of a component's argument": BadInput(
        did="`init_args: {correct: right}` of `ExactMatch`",
        config={"model.reward_model": component("ExactMatch", correct="right")},
    ),
    "not one of the choices": BadInput(
        did="`model.loss.normalizer: tokens`", config={"model.loss.normalizer": "tokens"}
    ),
    "wrong type of nested options": BadInput(
        did="`model.sampling.temperature: warm`", config={"model.sampling.temperature": "warm"}
    ),
    "no such file": BadInput(
        did="`--config=confgs/mine.yaml`, which is not there", flags=("--config=confgs/mine.yaml",)
    ),
    "malformed YAML": BadInput(
        did="YAML with a wrong indentation", yaml="model:\n  group_size: 8\n   sampling: {}\n"
    ),
    "no YAML": BadInput(did="an empty YAML file", yaml=""),
}
DATA = {
    "no data": BadInput(did="no `data.train` at all", config={"data.train": None}),
    "missing data file": BadInput(
        did="`data.train: prompts.jsonl`, which is not there", config={"data.train": "prompts.jsonl"}
    ),
    "unknown extension": BadInput(
        did="`data.train: prompts.txt`", config={"data.train": "prompts.txt"}, files={"prompts.txt": "1+1="}
    ),
    "empty file": BadInput(did="an empty `prompts.jsonl`", config=own(), files={"prompts.jsonl": ""}),
    "malformed line": BadInput(
        did="line 3 of `prompts.jsonl` is cut off", config=own(), files={"prompts.jsonl": ROWS[:70]}
    ),
    "not an object": BadInput(
        did="line 1 of `prompts.jsonl` is a list", config=own(), files={"prompts.jsonl": '["1+1=", 2]\n'}
    ),
    "not UTF-8": BadInput(
        did="`prompts.jsonl` is in Latin-1",
        config=own(),
        prepare=lambda folder: (folder / "prompts.jsonl").write_bytes(
            '{"prompt": "é", "answer": 1}\n'.encode("latin-1")
        ),
    ),
    "missing prompt column": BadInput(
        did="the prompts are in a column `question`",
        config=own(),
        files={"prompts.jsonl": ROWS.replace('"prompt"', '"question"')},
    ),
    "empty prompt": BadInput(
        did="the prompt of row 6 is empty",
        config=own(),
        files={"prompts.jsonl": ROWS + '{"prompt": "", "answer": 1}\n'},
    ),
    "missing reward column": BadInput(
        did="`ExactMatch` reads `answer`, the data has `solution`",
        config=own(),
        files={"prompts.jsonl": ROWS.replace('"answer"', '"solution"')},
    ),
    "missing column of a function": BadInput(
        did="a reward function with an argument `level`, which the data lacks",
        config=own() | function("by_level"),
        files={"prompts.jsonl": ROWS},
    ),
    "longer than the context": BadInput(
        did="a prompt longer than the model's context leaves room for",
        config=own(),
        files={"prompts.jsonl": ROWS + json.dumps({"prompt": "1+" * 300, "answer": 1}) + "\n"},
    ),
    "longer than max_prompt_length": BadInput(
        did="`data.max_prompt_length: 3` and prompts of 4 tokens",
        config=own() | {"data.max_prompt_length": 3},
        files={"prompts.jsonl": ROWS},
    ),
    "chat without template": BadInput(
        did="a prompt that is a list of messages, for a model without a chat template",
        config=own() | {"model.policy.path": "model"},
        files={"prompts.jsonl": CHAT * 4},
        prepare=lambda folder: make_model("llama", folder / "model"),
    ),
    "fewer prompts than a step": BadInput(
        did="`data.prompts_per_step: 16` with 6 prompts",
        config=own() | {"data.prompts_per_step": 16},
        files={"prompts.jsonl": ROWS},
    ),
    "no split": BadInput(
        did="`split: train` of a file", config=own(split="train"), files={"prompts.jsonl": ROWS}
    ),
    "hub offline": BadInput(
        did="`data.train: openai/gsm8k` without a network",
        config={"data.train": "openai/gsm8k"},
    ),
}
SETTINGS = {
    "group of one": BadInput(did="`model.group_size: 1`", config={"model.group_size": 1}),
    "temperature 0": BadInput(
        did="`model.sampling.temperature: 0`", config={"model.sampling.temperature": 0.0}
    ),
    "top_p": BadInput(did="`model.sampling.top_p: 90`", config={"model.sampling.top_p": 90.0}),
    "context": BadInput(
        did="`model.sampling.max_new_tokens: 4096`", config={"model.sampling.max_new_tokens": 4096}
    ),
    "mini-batches": BadInput(
        did="`data.prompts_per_step: 4` with `model.updates.mini_batches: 3`",
        config={"data.prompts_per_step": 4, "model.updates.mini_batches": 3},
    ),
    "reward weights": BadInput(
        did="two `reward_weights` for one reward model", config={"model.reward_weights": [1.0, 0.5]}
    ),
    "endless schedule": BadInput(
        did="`model.schedule.name: cosine` in a run without an end",
        config={"model.schedule.name": "cosine", "trainer.max_steps": None},
    ),
    "unknown schedule": BadInput(did="`model.schedule.name: cosin`", config={"model.schedule.name": "cosin"}),
    "gradient clipping": BadInput(
        did="`trainer.gradient_clip_val: 1.0`", config={"trainer.gradient_clip_val": 1.0}
    ),
    "accumulation": BadInput(
        did="`trainer.accumulate_grad_batches: 4`", config={"trainer.accumulate_grad_batches": 4}
    ),
    "fsdp": BadInput(did="`trainer.strategy: fsdp`", config={"trainer.strategy": "fsdp"}),
    "deepspeed": BadInput(did="`trainer.strategy: deepspeed`", config={"trainer.strategy": "deepspeed"}),
    "unknown strategy": BadInput(did="`trainer.strategy: dpp`", config={"trainer.strategy": "dpp"}),
    "gpu": BadInput(
        did="`trainer.accelerator: gpu` on a machine without one", config={"trainer.accelerator": "gpu"}
    ),
    "folder": BadInput(
        did="`trainer.default_root_dir` below a file",
        config={"trainer.default_root_dir": "notes.txt/run"},
        files={"notes.txt": ""},
    ),
    "checkpoint": BadInput(
        did="`--ckpt_path=checkpoints/lost.ckpt`", flags=("--ckpt_path=checkpoints/lost.ckpt",)
    ),
    "last checkpoint": BadInput(did="`--ckpt_path=last` before there is one", flags=("--ckpt_path=last",)),
}
REWARD = {
    "no such function": BadInput(did="`function: my_rewards.brevty`", config=function("brevty")),
    "no such module": BadInput(
        did="`function: rewards_of_mine.brevity`",
        config={"model.reward_model": component("RewardFunction", function="rewards_of_mine.brevity")},
    ),
    "no path": BadInput(
        did="`function: brevity`",
        config={"model.reward_model": component("RewardFunction", function="brevity")},
    ),
    "no function": BadInput(did="`function: my_rewards.threshold`, a number", config=function("threshold")),
    "wrong signature": BadInput(
        did="a function that takes its arguments by position only", config=function("positional")
    ),
    "kwargs": BadInput(
        did="`kwargs: {treshold: 1}` for a function without such an argument",
        config=function("by_level", kwargs={"treshold": 1}),
    ),
    "too few": BadInput(
        did="a function that returns one number for all completions",
        config=function("too_short"),
        rollouts=True,
    ),
    "nothing": BadInput(did="a function without a `return`", config=function("forgets"), rollouts=True),
    "infinite": BadInput(did="a function that returns `inf`", config=function("infinite"), rollouts=True),
    "words": BadInput(did="a function that returns words", config=function("words"), rollouts=True),
    "exception": BadInput(did="a function that raises", config=function("divides"), rollouts=True),
    "regular expression": BadInput(
        did='`pattern: "("` of `FormatMatch`',
        config={"model.reward_model": component("FormatMatch", pattern="(")},
    ),
    "no answer": BadInput(
        did="`answer` of one row is null",
        config=own(),
        files={"prompts.jsonl": ROWS.replace("6}", "null}")},
        rollouts=True,
    ),
}
MODEL = {
    "no such package model": BadInput(
        did="`model.policy.path: lgrpo:arithmetics`", config={"model.policy.path": "lgrpo:arithmetics"}
    ),
    "no such folder": BadInput(
        did="`model.policy.path: models/mine`, which is not there",
        config={"model.policy.path": "./models/mine"},
    ),
    "hub without network": BadInput(
        did="`model.policy.path: Qwen/Qwen2.5-0.5B` without a network",
        config={"model.policy.path": "Qwen/Qwen2.5-0.5B"},
    ),
    "empty folder": BadInput(
        did="`model.policy.path` is a folder without a model",
        config={"model.policy.path": "./empty"},
        prepare=lambda folder: (folder / "empty").mkdir(),
    ),
    "folder without tokenizer": BadInput(
        did="a model folder without its tokenizer",
        config={"model.policy.path": "./model"},
        prepare=lambda folder: (
            make_model("llama", folder / "model"),
            [p.unlink() for p in (folder / "model").glob("tokenizer*")],
        ),
    ),
    "unknown architecture": BadInput(
        did="a model of an architecture that transformers does not know",
        config={"model.policy.path": "./model"},
        prepare=lambda folder: edited_config(folder, model_type="quark"),
    ),
    "no end of sequence": BadInput(
        did="a model without an end-of-sequence token",
        config={"model.policy.path": "./endless"},
        prepare=no_eos,
    ),
    "quantised": BadInput(
        did="a quantised model",
        config={"model.policy.path": "./model"},
        prepare=lambda folder: edited_config(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
    ),
    "quantised on loading": BadInput(
        did="`model.policy.model_kwargs: {load_in_4bit: true}`",
        config={"model.policy.model_kwargs": {"load_in_4bit": True}},
    ),
    "lora without peft": BadInput(
        did="`model.policy.lora.rank: 8` without peft",
        config={"model.policy.lora.rank": 8},
        during=lambda: missing("peft"),
    ),
    "lora targets": BadInput(
        did="`model.policy.lora.targets: [query]`, of which the model has none",
        config={"model.policy.lora.targets": ["query"]},
    ),
    "attention": BadInput(
        did="`model.policy.attn_implementation: flash`",
        config={"model.policy.attn_implementation": "flash"},
    ),
    "model_kwargs": BadInput(
        did="`model.policy.model_kwargs: {use_cash: false}`",
        config={"model.policy.model_kwargs": {"use_cash": False}},
    ),
}
CASES: dict[str, BadInput] = COMPONENTS | KEYS | DATA | SETTINGS | REWARD | MODEL


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


def answer(case: BadInput) -> Answer:
    """Run ``lgrpo fit`` on a bad input in a folder of its own."""
    with tempfile.TemporaryDirectory() as name, working_folder(Path(name).resolve()) as folder:
        (folder / "run.yaml").write_text(configured(case.config) if case.yaml is None else case.yaml)
        (folder / "my_rewards.py").write_text(REWARDS)
        for path, content in case.files.items():
            (folder / path).write_text(content)
        if case.prepare:
            case.prepare(folder)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), case.during():
            try:
                status = cli.main(["fit", "--config=run.yaml", *case.flags])
            except SystemExit as end:
                status = int(end.code or 0)
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
