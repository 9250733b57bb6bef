"""A configuration file means what it says: no key twice, text stays text, a list is as it is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning import cli
from lgrpo_lightning.commands.entries import read_entries
from lgrpo_lightning.commands.yaml_text import dump, load

BASE = """\
model:
  reward_model: ExactMatch
data:
  train: ArithmeticTasks
"""
TEXT = (
    "12:30",
    "on",
    "off",
    "yes",
    "No",
    "y",
    "2024-05-06",
    "007",
    "1_000",
    "1:20:30.5",
    "0b11",
    "=",
    "0o14",
    "1e3x",
)
TEXT += ("'7'", "'true'", "'null'", "'[1, 2]'", "'{a: 1}'", "'a: 1'", "'on'", "'1e3'", "''")
"""What YAML 1.1 takes for a number, a truth value, a date or a tag, and what never was anything else."""
VALUES = {"1": 1, "+1": 1, "-2": -2, "0x1F": 31, "1e3": 1e3, "1e-6": 1e-6, ".5": 0.5, "1.": 1.0, "true": True}
VALUES |= {"False": False, "null": None, "~": None, ".inf": float("inf")}


def printed(tmp_path: Path, capsys: pytest.CaptureFixture[str], *files: str, flags: tuple[str, ...] = ()) -> Any:
    """The configuration that files and flags give, or the error's text."""
    paths = []
    for number, text in enumerate(files):
        paths.append(tmp_path / f"run{number}.yaml")
        paths[-1].write_text(text)
    try:
        status = cli.main(["fit", *(f"--config={path}" for path in paths), *flags, "--print_config"])
    except SystemExit as end:
        status = int(end.code or 0)
    said = capsys.readouterr()
    return load(said.out) if status == 0 else said.err


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        (f"{BASE}model:\n  group_size: 4\n", "model", (1, 5)),
        (f"{BASE}  shuffle: false\n  seed: 1\n  shuffle: true\n", "data.shuffle", (5, 7)),
        (
            f"{BASE}trainer:\n  callbacks:\n  - class_path: RolloutWriter\n    class_path: RewardPlot\n",
            "class_path",
            (7, 8),
        ),
        (f"{BASE}trainer: {{max_steps: 1,\n  max_steps: 2}}\n", "trainer.max_steps", (5, 6)),
        (f"{BASE}trainer.max_steps: 1\ntrainer: {{max_steps: 2}}\n", "trainer.max_steps", (5, 6)),
    ],
)
def test_a_key_stands_once_in_a_file(text: str, key: str, lines: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"run.yaml, line {lines[0]} and line {lines[1]}: .*{key} is given twice"):
        read_entries([f"--config={path}"])


def test_a_key_stands_once_on_the_command_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(tmp_path, capsys, BASE, flags=("--model.sampling={top_k: 1, top_k: 2}",))
    assert "top_k is given twice" in said
    assert "line 1 and line 5: model is given twice" in printed(tmp_path, capsys, f"{BASE}model: {{seed: 1}}")


def test_text_on_the_command_line_has_no_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "Answer: yes\nAnswer: no"
    said = printed(tmp_path, capsys, BASE, flags=(f"--data.system_prompt={text}", "--data.chat=true"))
    assert said["data"]["system_prompt"] == text


def test_another_file_may_give_it_again_and_anchors_are_no_repetition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = "x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  a: 3\n"
    assert load(merged)["y"] == {"a": 3, "b": 2}
    found = printed(tmp_path, capsys, BASE + "  seed: 1\n", "data: {seed: 2}\n")
    assert found["data"]["seed"] == 2


def test_free_values_are_kept_as_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = {f"k{i}": text for i, text in enumerate([*TEXT, *VALUES])}
    free = "{" + ", ".join(f"{key}: {value}" for key, value in written.items()) + "}"
    meant = {key: VALUES.get(value, str(value).strip("'")) for key, value in written.items()}
    function = f"{{function: json.dumps, kwargs: {free}}}"
    reward = f"model:\n  reward_model:\n    class_path: RewardFunction\n    init_args: {function}\n"
    found = printed(tmp_path, capsys, f"{reward}data:\n  train: ArithmeticTasks\n  chat_template_kwargs: {free}\n")
    assert found["model"]["reward_model"]["init_args"]["kwargs"] == meant
    assert found["data"]["chat_template_kwargs"] == meant
    again = printed(tmp_path, capsys, dump(found))  # config.yaml says the same
    assert again == found


def test_truth_values_may_be_written_as_ever_where_one_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(tmp_path, capsys, BASE + "  shuffle: no\n  seed: 1_0\ntrainer:\n  default_root_dir: 12:30\n")
    assert (found["data"]["shuffle"], found["data"]["seed"]) == (False, 10)
    assert found["trainer"]["default_root_dir"] == "12:30"


@given(st.text() | st.sampled_from([*TEXT, *VALUES]) | st.floats(allow_nan=False) | st.integers() | st.booleans())
def test_what_is_dumped_is_loaded_as_it_was(value: object) -> None:
    assert load(dump({"key": value})) == {"key": value}
    assert yaml.safe_load(dump({"key": value})) == {"key": value}


def test_a_list_of_components_keeps_no_options_of_another_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = {"class_path": "ExactMatch", "init_args": {"column": "solution"}}
    single, several, last = (
        json.dumps({"model": {"reward_model": given}})
        for given in (first, [first, "ExactMatch"], ["ExactMatch", "ExactMatch"])
    )
    for files in ((single, last), (several, last)):
        found = printed(tmp_path, capsys, BASE, *files)
        assert [model["init_args"]["column"] for model in found["model"]["reward_model"]] == [
            "answer",
            "answer",
        ]
