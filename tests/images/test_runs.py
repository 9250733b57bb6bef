"""Runs on prompts with images through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch

from lgrpo_lightning import cli
from lgrpo_lightning.data.files import PromptFile
from lgrpo_lightning.policy import Lora, Policy, PolicyConfig
from tests.images.models import write_image_model
from tests.images.rows import ask, fit, make_arguments, write_rows
from tests.runs import checkpoint, metrics, rollouts

LORA = "--model.policy.lora.rank=2"


def changed(run: Path, model: Path) -> set[str]:
    """Names of the weights that a run moved."""
    from transformers import AutoModelForImageTextToText

    before = AutoModelForImageTextToText.from_pretrained(model).state_dict()
    after = {name.removeprefix("policy.model."): t for name, t in checkpoint(run)["state_dict"].items()}
    return {name for name, tensor in after.items() if name in before and not torch.equal(before[name], tensor)}


@pytest.mark.parametrize("layout", ["auto", "padded"])
def test_a_run_trains_the_text_part_and_keeps_references(layout: str, tmp_path: Path) -> None:
    assert fit(tmp_path, f"--model.policy.layout={layout}", "--model.objective.kl_coef=0.1") == 0
    run = tmp_path / "run"
    table = rollouts(run)
    for _, row in table.iterrows():
        columns = json.loads(row["columns"])
        number = int(row["prompt_uid"].rpartition("/")[2])
        count = int(columns["answer"])
        expected = [str(tmp_path / "pictures" / f"{number}-{i}.png") for i in range(count)]
        assert columns.get("images", []) == expected
        assert row["prompt"].count("<start_of_image>") == count
    assert metrics(run)["sampling/sampling_logp_difference/max"].max() < 1e-5
    moved = changed(run, tmp_path / "model")
    assert moved
    assert not [name for name in moved if "vision" in name or "projector" in name]


def test_a_killed_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    assert fit(tmp_path) == 0
    assert fit(tmp_path, "--trainer.max_steps=1", run="cut") == 0
    assert fit(tmp_path, "--ckpt_path=last", run="cut") == 0
    whole, cut = (checkpoint(tmp_path / run)["state_dict"] for run in ("run", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    same = ["prompt_uid", "token_ids", "reward", "columns"]
    pandas.testing.assert_frame_equal(rollouts(tmp_path / "run")[same], rollouts(tmp_path / "cut")[same])


@pytest.mark.parametrize(
    "options",
    [
        [LORA, "--model.objective.kl_coef=0.1"],
        ["--model.policy.gradient_checkpointing=true"],
        ["--data.train=PromptFile", "--data.train.streaming=true"],
        ["--trainer.precision=bf16-true"],
        ["--model.sampler=ForkingSampler"],
        ["--model.sampler=TransformersSampler", "--model.sampler.max_batch_tokens=64"],
        ["--model.updates.iterations=2", "--model.updates.mini_batches=2", "--trainer.max_steps=12"],
        ["--model.policy.micro_batch_tokens=40"],
    ],
    ids=lambda options: options[0].rpartition("--")[2],
)
def test_options_beside_images(options: list[str], tmp_path: Path) -> None:
    if "--data.train.streaming=true" in options:
        options = [*options, f"--data.train.path={tmp_path / 'rows.jsonl'}"]
    assert fit(tmp_path, *options) == 0
    assert len(rollouts(tmp_path / "run")) == 36


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes(strategy: str, tmp_path: Path) -> None:
    """They draw and train what one process does."""
    assert fit(tmp_path, "--trainer.accelerator=cpu") == 0
    both = ["--trainer.accelerator=cpu", "--trainer.devices=2", f"--trainer.strategy={strategy}"]
    words = [sys.executable, "-m", "lgrpo_lightning.cli", *make_arguments(tmp_path, *both, run="two")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    one, two = (rollouts(tmp_path / run) for run in ("run", "two"))
    assert list(one["completion"]) == list(two["completion"])
    assert list(one["columns"]) == list(two["columns"])


def test_an_adapter_on_the_tower(tmp_path: Path) -> None:
    """An adapter on the part of images, named by its modules, is trained in both layouts."""
    target = "vision_tower.encoder.layers.0.self_attn.q_proj"
    assert fit(tmp_path, LORA, f"--model.policy.lora.targets=[{target}]") == 0
    trained = checkpoint(tmp_path / "run")["state_dict"]
    assert trained.keys()
    assert all("vision_tower" in name for name in trained)
    assert all(bool(tensor.any()) for name, tensor in trained.items() if "lora_B" in name)
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0


REFUSED = {
    "tree": (["--model.policy.layout=tree"], "has images, and policy.layout is 'tree': a tree gives each token one"),
    "environment": (
        ["--model.sampler=EnvironmentSampler", "--model.sampler.tools=[tests.environments.partners.multiply]"],
        "has images, and what an environment says is text",
    ),
    "text model": (["--model.policy.path=lgrpo:arithmetic"], "reads text only"),
    "processor option": (["--model.policy.processor_kwargs={size: {nothing: 3}}"], "Gemma3Processor refuses it"),
    "pixels": (["--data.images.max_pixels=100"], "at most 100 are possible"),
    "length": (["--data.max_prompt_length=12"], "tokens; at most 12 are possible"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_before_the_first_step(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, said = REFUSED[kind]
    assert fit(tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "rows.jsonl" in error
    assert not (tmp_path / "run" / "rollouts").is_dir()


def test_a_text_that_stands_for_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside images, the token of one in another prompt's text would get them; without images it is text."""
    options = {name: tmp_path / f"{name}.jsonl" for name in ("mixed", "text")}
    write_image_model("gemma3", tmp_path / "model")
    rows = [json.loads(line) for line in write_rows(tmp_path).read_text().splitlines()]
    text = {"prompt": ask(text="<soft>?"), "images": [], "answer": "0"}
    options["mixed"].write_text("\n".join(map(json.dumps, [*rows, text])))
    options["text"].write_text("\n".join(map(json.dumps, [text] * 4)))
    assert fit(tmp_path, f"--data.train={options['mixed']}") == 2
    assert "Prompt train/8 has no images, and its text has a token that stands for one" in capsys.readouterr().err
    assert fit(tmp_path, f"--data.train={options['text']}") == 0


def test_a_stream_whose_images_come_late(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image_model("gemma3", tmp_path / "model")
    images = write_rows(tmp_path, (1,)).read_text()
    text = json.dumps({"prompt": ask(), "answer": "0"})
    (tmp_path / "rows.jsonl").write_text("\n".join([*[text] * 101, images]))
    stream = ["--data.train=PromptFile", "--data.train.streaming=true", f"--data.train.path={tmp_path / 'rows.jsonl'}"]
    reward = "--model.reward_model.function=tests.images.rows.count_letters"
    assert fit(tmp_path, *stream, reward, "--data.shuffle=false", "--data.prompts_per_step=60") == 2
    assert "row 101 (from 0) has images, and the first 100 rows of the stream have none" in capsys.readouterr().err


def test_a_stream_of_text_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of text looks for no images in it; columns that are empty hold none."""
    opened = []
    rows = PromptFile.rows
    monkeypatch.setattr(PromptFile, "rows", lambda self: opened.append(self) or rows(self))  # type: ignore[func-returns-value]
    (tmp_path / "rows.jsonl").write_text("\n".join([json.dumps({"prompt": "1+1=", "images": None})] * 12))
    options = [
        "--data.train=PromptFile",
        "--data.train.streaming=true",
        f"--data.train.path={tmp_path / 'rows.jsonl'}",
        "--model.policy.path=lgrpo:arithmetic",
        "--model.reward_model.function=tests.images.rows.count_strings",
    ]
    assert cli.main(make_arguments(tmp_path, *options)) == 0
    assert len(opened) == 1


def test_long_prompts_are_left_out_by_the_tokens_of_their_images(tmp_path: Path) -> None:
    assert fit(tmp_path, "--data.max_prompt_length=40", "--data.long_prompts=drop", "--data.prompts_per_step=2") == 0
    counts = {int(json.loads(columns)["answer"]) for columns in rollouts(tmp_path / "run")["columns"]}
    assert counts <= {0, 1, 2}


def test_validate_and_predict(tmp_path: Path) -> None:
    write_image_model("qwen2_5_vl", tmp_path / "model")
    write_rows(tmp_path, (1, 2, 0))
    common = [
        f"--model.policy.path={tmp_path / 'model'}",
        "--model.reward_model=RewardFunction",
        "--model.reward_model.function=tests.images.rows.count_images",
        "--model.sampling.max_new_tokens=4",
    ]
    for command, which in (("validate", "validation"), ("predict", "predict")):
        root = f"--trainer.default_root_dir={tmp_path / command}"
        assert cli.main([command, root, f"--data.{which}={tmp_path / 'rows.jsonl'}", *common]) == 0


def test_text_of_a_template_that_reads_parts(tmp_path: Path) -> None:
    """A row without images shows its text, too."""
    assert fit(tmp_path, counts=(0, 0, 0, 0, 1, 0, 0, 0)) == 0
    texts = set(rollouts(tmp_path / "run")["prompt"])
    assert texts <= {"u:how many?a:", "u:<start_of_image>how many?a:"}
    assert "u:how many?a:" in texts
    assert ask()[0]["content"]


def test_an_adapter_on_the_tower_is_the_same_without_images(tmp_path: Path) -> None:
    """It is exported without the data, and has a gradient in a pass of text."""
    write_image_model("gemma3", tmp_path)
    lora = Lora(rank=2, targets=["vision_tower.encoder.layers.0.self_attn.q_proj"])
    config = PolicyConfig(path=str(tmp_path), lora=lora)
    policy, bare = (Policy(config, reads_images=images) for images in (True, False))
    assert policy.state_dict().keys() == bare.state_dict().keys()
    policy.score([[3, 4]], [[5, 6]], temperature=1.0).logprobs.sum().backward()
    trained = [p for p in policy.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and not p.grad.any() for p in trained)
