"""A script of the shape of TRL's example for images (examples/scripts/grpo_vlm.py): imported and trained."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from lgrpo_lightning import cli
from tests.images.models import write_image_model
from tests.images.rows import draw
from tests.runs import rollouts

REWARD = '''
def accuracy_reward(completions, solution, image, **kwargs):
    """1 for the solution; the column of images comes along, as in TRL."""
    assert {picture.size for picture in image} == {(40, 30)}
    contents = [completion[0]["content"] for completion in completions]
    return [float(content.strip() == wanted) for content, wanted in zip(contents, solution)]
'''
SCRIPT = """
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer, ModelConfig, ScriptArguments, TrlParser, get_peft_config
from trl.rewards import think_format_reward

if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, GRPOConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config()
    dataset = load_dataset("parquet", data_files="rows.parquet", split="train")
    dataset = dataset.train_test_split(test_size=2, seed=42)
    SYSTEM_PROMPT = "count the dots"

    def make_conversation(example):
        prompt = [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": example["problem"]},
        ]
        return {"prompt": prompt}

    dataset = dataset.map(make_conversation)

    def filter_big_images(example):
        return example["image"].size[0] < 512

    dataset = dataset.filter(filter_big_images)

    def convert_to_rgb(example):
        image = example["image"]
        if image.mode != "RGB":
            image = image.convert("RGB")
        example["image"] = image
        return example

    dataset = dataset.map(convert_to_rgb)
    train_dataset = dataset["train"]
REWARD
    trainer = GRPOTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        reward_funcs=[think_format_reward, accuracy_reward],
        train_dataset=train_dataset,
        peft_config=get_peft_config(model_args),
    )
    trainer.train()
""".replace("REWARD", REWARD.replace("\n", "\n    "))


def test_imported_and_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    columns = {name: datasets.Value("string") for name in ("problem", "solution")}
    rows = {"problem": ["how many?"] * 6, "solution": ["a"] * 6, "image": [draw(seed=i, mode="RGBA") for i in range(6)]}
    features = datasets.Features({**columns, "image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet("rows.parquet")
    Path("grpo_vlm.py").write_text(SCRIPT)
    Path("grpo_vlm_rewards.py").write_text(REWARD)
    assert cli.main(["import-trl", "grpo_vlm.py", "--rows=6"]) == 0
    config = capsys.readouterr().out
    assert "put it into grpo_vlm_rewards.py; grpo_vlm.py defines it" in config.replace("\n#   ", " ")
    assert "what .map makes" not in config
    Path("run.yaml").write_text(config.replace("lora: ''", "lora: {rank: 2}"))
    write_image_model("qwen2_5_vl", Path("model"))
    options = {"model.policy.path": "model", "trainer.max_steps": 2, "model.sampling.max_new_tokens": 6}
    fast = {"trainer.precision": "32-true", "trainer.enable_progress_bar": "false", "trainer.accelerator": "cpu"}
    assert cli.main(["fit", "--config=run.yaml", *(f"--{k}={v}" for k, v in (options | fast).items())]) == 0
    table = rollouts(Path("trainer_output"))
    assert set(table["rollout"]) == {0, 1}
    assert set(table["prompt"]) == {"s:count the dotsu:<|vision_start|><|image_pad|><|vision_end|>how many?a:"}
    kept = {image for text in table["columns"] for image in json.loads(text)["images"]}
    assert kept <= {str(path) for path in (tmp_path / "trainer_output" / "images").iterdir()}
