"""Mistakes that people make, each run through the command line, and the table of what ``lgrpo`` answers.

``python -m tests.integration.bad_inputs`` writes ``docs/errors.md``; ``test_bad_input.py`` asserts every answer.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from lgrpo_lightning import cli
from lgrpo_lightning.registry import lookup
from lgrpo_lightning.registry.loading import DISABLE
from tests.integration.mistakes.case import BadInput
from tests.integration.mistakes.components import COMPONENTS, PARTS
from tests.integration.mistakes.data import DATA
from tests.integration.mistakes.keys import KEYS
from tests.integration.mistakes.models import MODEL
from tests.integration.mistakes.rewards import REWARD, REWARDS
from tests.integration.mistakes.runs import RUNS
from tests.integration.mistakes.settings import SETTINGS
from tests.runs import CONFIG, SMALL

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
SECTIONS: dict[str, dict[str, BadInput]] = {
    "Components": COMPONENTS,
    "Configuration files and flags": KEYS,
    "Data": DATA,
    "Settings": SETTINGS,
    "Devices, precision and callbacks": RUNS,
    "Rewards": REWARD,
    "Models": MODEL,
}
CASES: dict[str, BadInput] = {name: case for cases in SECTIONS.values() for name, case in cases.items()}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a bad input: exit status, message, everything printed, whether rollouts were written."""

    status: int
    message: str
    printed: str
    rollouts: bool


def configured(changes: Mapping[str, Any]) -> str:
    """The quickstart, made small, with changes under dotted keys."""
    config = yaml.safe_load(CONFIG.read_text())
    for name in ("train", "validation"):
        config["data"][name]["init_args"] = {"count": 12}
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
        (folder / "my_parts.py").write_text(PARTS)
        for path, content in case.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
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
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "path", list(sys.path)),
        mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True),  # read when it was imported
    ):
        lookup.components.cache_clear()
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)
            sys.modules.pop("my_rewards", None)
            sys.modules.pop("my_parts", None)
            lookup.components.cache_clear()


HEAD = """\
# Errors

Each row of this page has a mistake and the message that it gives, as the tests produced it. `run.yaml` is the
configuration and `…` the working folder. `lgrpo` prints such a message after `lgrpo:` and exits with code 2.
Mistakes are found before the first optimizer step if possible. Messages marked ▸ come with a rollout, because they
need completions.

An error with a traceback is a bug in the library or in a component of yours. `LGRPO_TRACEBACK=1` shows the traceback
of every error."""


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
