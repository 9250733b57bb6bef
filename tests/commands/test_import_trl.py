"""``lgrpo import-trl``: what it prints runs, and what it refuses it explains."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from lgrpo_lightning import cli
from tests.docs.markdown import ROOT
from tests.migration import gsm8k
from tests.runs import rollouts, train_metrics

ARITHMETIC = ROOT / "lgrpo_lightning" / "policy" / "assets" / "arithmetic"
CHAT = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant: "


def tokenizer(folder: Path) -> Path:
    """The small model's tokenizer with a chat template, which it has not."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(ARITHMETIC / name, folder / name)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def line_of(text: str) -> int:
    """The line of the script that has ``text``."""
    return next(number for number, line in enumerate(gsm8k.SCRIPT.splitlines(), start=1) if text in line)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "gsm8k_rewards", raising=False)
    return tmp_path


def test_the_example_of_trl_on_gsm8k_trains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Imported, its configuration trains two steps with the small model in place of Qwen."""
    pytest.importorskip("peft")
    gsm8k.write(folder)
    assert cli.main(["import-trl", "train.py"]) == 0
    printed = capsys.readouterr().out
    (folder / "run.yaml").write_text(printed)
    flags = [
        "--model.policy.path=lgrpo:arithmetic",
        f"--model.policy.tokenizer={tokenizer(folder / 'tokenizer')}",
        "--model.sampling.max_new_tokens=8",
        "--trainer.accelerator=cpu",
    ]
    assert cli.main(["fit", "--config=run.yaml", *flags]) == 0
    run = folder / "grpo-gsm8k"
    assert len(train_metrics(run)) == 2
    table = rollouts(run)
    assert len(table) == 2 * 8
    assert table["prompt"].str.contains(r"system: Solve it[^\n]*\nuser: Ann has").all()
    assert not (folder / "ran").exists(), "the script was run"


def test_what_it_prints_of_the_example(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gsm8k.write(folder)
    assert cli.main(["import-trl", "train.py"]) == 0
    printed = capsys.readouterr().out
    config, said = yaml.safe_load(printed), printed.replace("\n#   ", " ")
    assert config["trainer"]["max_steps"] == 2
    assert config["model"]["policy"]["lora"] == {
        "rank": 4,
        "alpha": 8,
        "dropout": 0.0,
        "targets": "all-linear",
    }
    assert config["model"]["objective"] == {"kl_coef": 0.001, "kl_unbiased": True}
    assert config["data"] == {
        "prompts_per_step": 2,
        "train": {
            "class_path": "PromptFile",
            "init_args": {"path": "gsm8k.jsonl", "prompt_column": "question"},
        },
        "chat": True,
        "system_prompt": "Solve it. End with a line #### and the number.",
    }
    rate, mapped = (line_of(text) for text in ("float(", ".map("))
    assert f"learning_rate (train.py, line {rate}): float('2e-6') is no literal" in said
    assert f"train.py, line {mapped}: .map also makes reference" in said
    assert "lr: 1.0e-06  # learning_rate: TRL's default" in printed
    assert "prompts_per_step: 2  # 8 x 1 x 1 process(es) / 4 num_generations" in printed
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", None, "There is no file a.yaml"),
        ("a.toml", "", "a file for TRL ends with .yaml"),
        ("a.yaml", "beta: [", "a.yaml, line 1: not valid YAML"),
        ("a.yaml", "- beta", "a.yaml holds no keys"),
        ("a.yaml", "model: {}", "a.yaml is no file for TRL: its keys are those of `lgrpo fit"),
        ("a.yaml", "a: 1", "a.yaml has no option of TRL's GRPO"),
        (
            "a.yaml",
            "beta: 0.1\nloss_type: dapoo",
            "a.yaml, line 2: loss_type is 'dapoo'; TRL takes grpo, dapo",
        ),
        ("a.yaml", "num_generations: 3", "8 completions, no multiple of 3 num_generations: TRL refuses it"),
        (
            "a.yaml",
            "num_generations: 1",
            "a.yaml, line 1: num_generations is 1; TRL takes whole numbers from 2 on",
        ),
        ("a.yaml", "scale_rewards: sum", "line 1: scale_rewards is 'sum'; TRL takes group, batch, none"),
        ("a.yaml", "reward_funcs: [brevity]", "reward_funcs has 'brevity'; TRL takes accuracy_reward"),
        ("a.yaml", "vllm_mode: both\nuse_vllm: true", "vllm_mode is 'both'; TRL takes colocate, server"),
        (
            "a.yaml",
            "reward_funcs: [a.b]\nreward_weights: [1, 2]",
            "one weight for each of 1 reward functions",
        ),
        ("a.yaml", "beta: 0.1\ntemperature: warm", "a.yaml, line 2: temperature is 'warm'; TRL takes a number"),
        ("a.yaml", "model_init_kwargs: 1", "model_init_kwargs is 1; TRL takes values by name"),
        ("a.yaml", "reward_funcs: [a.b]\nreward_weights: 1", "one weight for each of 1 reward functions"),
        ("a.py", "x = (", "a.py, line 1: not Python"),
        ("a.py", "x = 1", "a.py: no call of GRPOConfig or GRPOTrainer"),
        ("a.py", "GRPOConfig()\nGRPOConfig()", "a.py, lines 1, 2: GRPOConfig is called 2 times; leave one"),
    ],
)
def test_refusals(name: str, text: str | None, says: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if text is not None:
        (folder / name).write_text(text)
    assert cli.main(["import-trl", name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("lgrpo: ")
    assert says in said


@pytest.mark.parametrize(
    ("text", "whose", "remedy"),
    [
        ("actor_rollout_ref: {rollout: {n: 8}}\ntrainer: {nnodes: 1}", "verl", "docs/from-verl.md"),
        ("actor: {eps_clip: 0.2}\nrollout: {batch_size: 8}", "OpenRLHF", "docs/from-verl.md"),
        ("base_model: a\nrl: grpo\nlearning_rate: 1e-6", "axolotl", "docs/from-trl.md"),
        ("model_name_or_path: a\nfinetuning_type: lora", "LLaMA-Factory", "docs/from-trl.md"),
        ("model_name_or_path: a\nbeta: 0.1", "TRL", "`lgrpo import-trl a.yaml`"),
    ],
)
def test_files_of_other_libraries_are_known(
    text: str, whose: str, remedy: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither command makes a default configuration of them."""
    (folder / "a.yaml").write_text(text)
    for words in (["fit", "--config=a.yaml"], ["import-trl", "a.yaml"])[: 1 if whose == "TRL" else 2]:
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert f"a.yaml is written for {whose}" in said
        assert remedy in said


def test_the_model_has_to_be_filled_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.yaml").write_text("max_steps: 1")
    assert cli.main(["import-trl", "a.yaml"]) == 0
    (folder / "run.yaml").write_text(capsys.readouterr().out)
    assert cli.main(["fit", "--config=run.yaml", "--model.reward_model=ExactMatch"]) == 2
    assert "model.policy.path is null; it must be the name or folder of a model" in capsys.readouterr().err


def test_numbers_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["import-trl", "a.yaml", "--processes=0"])
    assert "'0' is no number from 1 on" in capsys.readouterr().err
