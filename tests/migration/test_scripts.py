"""What is read of a script."""

from __future__ import annotations

from typing import Any

import pytest

SCRIPT = """
from datasets import load_dataset
from transformers import AutoModelForCausalLM
data = {data}
model = AutoModelForCausalLM.from_pretrained("m")
GRPOTrainer(model, [{reward}], train_dataset=data, args=GRPOConfig("out", beta=BETA, **more))
BETA = 0.5
"""


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ('load_dataset("a/b", "main")["train"]', {"path": "a/b", "subset": "main", "split": "train"}, ""),
        ('load_dataset("a", split="s").select(range(9))', {"path": "a", "split": "s", "limit": 9}, ""),
        ('load_dataset("a").rename_column("q", "prompt")', {"path": "a", "prompt_column": "q"}, ""),
        ('load_dataset("a").map(lambda x: {"prompt": x["q"]})', {"path": "a", "prompt_column": "q"}, ""),
        ('load_dataset("a").map(f)', {"path": "a"}, "line 4: what .map makes of a row cannot be read"),
        ('load_dataset("a").filter(f)', {"path": "a"}, "line 4: .filter(…) is not repeated here"),
        ("load_dataset(name())", None, "line 4: what load_dataset loads is no literal"),
        ("own()", None, "does not tell where its prompts are"),
    ],
)
def test_the_prompts_of_a_script(data: str, options: Any, said: str, made: Any) -> None:
    config, text = made(SCRIPT.format(data=data, reward="f.g"), "train.py")
    found = config["data"].get("train")
    assert options == (found and found["init_args"])
    assert said in text


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ('row["image"] = row["image"].convert("RGB")', True),
        ('row["images"] = [x.resize((9, 9)) for x in row["images"]]', True),
        ('row["image"] = row["image"].crop((0, 0, 9, 9))', False),
        ('row["image"] = row["photo"]', False),
        ('row["image"] = row["image"].convert("RGB"); row["prompt"][0]["content"] = "Think."', False),
        ('row["image"] = row["image"].convert("RGB"); row.update(prompt="Think.")', False),
        ('row["image"] = row["image"].convert("RGB"); change(row)', False),
    ],
)
def test_a_map_over_images(body: str, kept: bool, made: Any) -> None:
    """One that changes an image's mode or size alone is left out, for images are read so; others are named."""
    function = f"def f(row):\n    {body}\n    return row\n"
    _, text = made(function + SCRIPT.format(data='load_dataset("a").map(f)', reward="f.g"), "train.py")
    assert ("what .map makes of a row cannot be read" in text) == (not kept)


def test_the_rest_of_a_script(made: Any) -> None:
    config, text = made(SCRIPT.format(data="d()", reward='"some/model"'), "train.py")
    assert config["trainer"]["default_root_dir"] == "out"
    assert config["model"]["policy"]["path"] == "m"
    assert config["model"]["objective"]["kl_coef"] == 0.5
    assert "**" in text
    assert "no reward model of its own here" in text
    assert "model.reward_model: required" in text
    _, moved = made("def near(completions): ...\nGRPOTrainer('m', near)\n", "train.py")
    assert "function: train_rewards.near" in moved
    assert "put it into train_rewards.py" in moved


def test_a_guarded_script_is_imported_from(made: Any) -> None:
    """Nothing has to move where importing the script does not train."""
    train = "def near(completions): ...\ndef main():\n    GRPOTrainer('m', near)\n"
    _, guarded = made(train + "if __name__ == '__main__':\n    main()\n", "train.py")
    assert "function: train.near}" in guarded
    assert "would start its training" not in guarded
    _, bare = made(train + "main()\n", "my-train.py")
    assert "function: my_train_rewards.near}" in bare


def test_an_adapter(made: Any) -> None:
    adapter = "LoraConfig(r=4, task_type=TaskType.CAUSAL_LM, bias={bias}, use_rslora=True)"
    text = f"GRPOTrainer('m', 'm.f', peft_config={adapter})"
    config, said = made(text.format(bias="'none'"), "train.py")
    assert config["model"]["policy"]["lora"] == {
        "rank": 4,
        "alpha": 8,
        "dropout": 0.0,
        "rslora": True,
        "targets": "all-linear",
    }
    assert "task_type" not in said
    assert "bias" not in said
    assert "bias (train.py, line 1): not among the options" in made(text.format(bias="'all'"), "train.py")[1]


def test_what_must_be_filled_in_is_refused_until_it_is(made: Any) -> None:
    """A model, an adapter or DeepSpeed that is no literal: neither the small model nor ddp takes its place."""
    text = "GRPOTrainer(name(), 'm.f', peft_config=lora(), args=GRPOConfig('out', deepspeed=DS))"
    config, said = made(text, "train.py", processes=8)
    assert config["model"]["policy"]["path"] is None
    assert config["model"]["policy"]["lora"] == ""
    assert config["trainer"]["strategy"] == "fsdp2"
    assert "path: null  # fill in the model" in said


AGENTS = """
from mytools import multiply
from trl import GRPOConfig, GRPOTrainer
def add(a: int, b: int) -> int: ...
class Counter:
    def get_reward(self): ...
TOOLS = [multiply, add, lambda x: x]
GRPOTrainer("m", near, args=GRPOConfig("out", reward_weights=[2.0], {config}), tools=TOOLS,
            environment_factory={factory})
def near(completions, environments): ...
"""


@pytest.mark.parametrize(
    ("factory", "environment"),
    [
        ("Counter", "train_environments.Counter"),
        (
            '{"a": Counter, "b": multiply, name(): x, **more}',
            {"a": "train_environments.Counter", "b": "mytools.multiply"},
        ),
    ],
)
def test_tools_and_environments(factory: str, environment: Any, made: Any) -> None:
    config, text = made(AGENTS.format(factory=factory, config="max_tool_calling_iterations=4"), "train.py")
    sampler = config["model"]["sampler"]
    assert sampler["class_path"] == "EnvironmentSampler"
    assert sampler["init_args"] == {
        "tools": ["mytools.multiply", "train_tools.add"],
        "environment": environment,
        "max_turns": 5,
    }
    assert config["model"]["reward_model"][1] == "EnvironmentReward"
    assert config["model"]["reward_weights"] == [2.0, 1.0]
    assert (
        ("the name name() is no literal" in text)
        == ("the name ** is no literal" in text)
        == isinstance(environment, dict)
    )
    assert "environments are not handed to rewards here" in text
    assert "put it into train_environments.py" in text
    assert "put it into train_tools.py" in text
    assert "lambda x: x (train.py, line 7): not read" in text


def test_environments_around_vllm(made: Any) -> None:
    script = AGENTS.format(factory="Counter", config="use_vllm=True, vllm_mode='colocate'")
    config, _ = made(script, "train.py")
    options = config["model"]["sampler"]["init_args"]
    assert options["sampler"]["class_path"] == "VLLMSampler"
    assert options["max_turns"] == 100


def test_an_environment_without_rewards(made: Any) -> None:
    script = (
        AGENTS.format(factory="Counter", config="")
        .replace("get_reward", "step")
        .replace('("out", reward', '("out", top_k=3, reward')
    )
    config, _ = made(script, "train.py")
    assert len(config["model"]["reward_model"]) == 1
