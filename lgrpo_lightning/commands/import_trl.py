"""``lgrpo import-trl FILE``: a configuration of TRL's GRPO as one for ``lgrpo fit``."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path

from lgrpo_lightning.commands.migration import loss, model, prompts, training
from lgrpo_lightning.commands.migration.batch import write_batch
from lgrpo_lightning.commands.migration.draft import Draft, Recipe
from lgrpo_lightning.commands.migration.fields import CARRIED, DEFAULTS, NOTES, VERSION
from lgrpo_lightning.commands.migration.python_file import read_python
from lgrpo_lightning.commands.migration.text import write_yaml
from lgrpo_lightning.commands.migration.yaml_file import read_yaml
from lgrpo_lightning.errors import NotFoundError, UserError

READERS = {".yaml": read_yaml, ".yml": read_yaml, ".py": read_python}


def main(argv: Sequence[str]) -> int:
    """Print the configuration that ``argv`` asks for."""
    options = build_parser().parse_args(list(argv)[1:])
    print(convert_file(options.file, processes=options.processes, rows=options.rows), end="")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="lgrpo import-trl",
        description="Print the configuration for `lgrpo fit` that does what a file asks TRL's GRPO for.",
    )
    add = parser.add_argument
    file = "a YAML file as for `trl grpo --config`, or a script with a GRPOConfig, which is read and never run"
    add("file", type=Path, metavar="FILE", help=file)
    add("--processes", type=_parse_count, default=1, help="how many processes TRL was run on; default 1")
    add("--rows", type=_parse_count, help="rows of the training set: where a schedule ends without max_steps")
    return parser


def _parse_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def convert_file(path: Path, *, processes: int = 1, rows: int | None = None) -> str:
    """The configuration that does what ``path`` asks TRL for.

    Args:
        path: A YAML file for ``trl grpo --config``, or a script, which is read and never run.
        processes: How many processes TRL was run on.
        rows: Rows of the training set, where the schedule has to know.
    """
    if path.suffix not in READERS:
        raise UserError(f"{path}: a file for TRL ends with .yaml (as for `trl grpo --config`) or .py (a script).")
    if not path.is_file():
        raise NotFoundError(f"There is no file {path} (looked in {Path.cwd()}).")
    return write_yaml(write_draft(READERS[path.suffix](path), processes, rows))


def write_draft(recipe: Recipe, processes: int, rows: int | None) -> Draft:
    """The configuration of a recipe."""
    draft = Draft(recipe)
    batch = write_batch(draft, processes)  # first: the others turn steps into rollouts by it
    training.write_trainer(draft, batch, processes)
    model.write_policy(draft)
    prompts.write_rewards(draft)
    loss.write_estimator(draft)
    model.write_sampler(draft)
    model.write_sampling(draft)
    loss.write_loss(draft)
    training.write_objective(draft)
    training.write_optimizer(draft)
    training.write_schedule(draft, batch, rows)
    training.write_validation(draft, batch, processes)
    prompts.write_data(draft)
    for needed, keys in CARRIED.items():
        if all(draft.get(field) for field in needed.split()):
            for field, key in keys.items():
                if key not in draft.lines:
                    draft.carry(field, key)
    _remark_the_rest(draft)  # last: it tells of what nothing has asked for
    return draft


def _remark_the_rest(draft: Draft) -> None:
    """What the file sets and no rule has looked at: what it is here, if anything, or that it is not known."""
    for name, given in draft.recipe.given.items():
        if name in draft.asked or (name in DEFAULTS and given.value == DEFAULTS[name]):
            continue
        if name in NOTES:
            here, note = NOTES[name]
            here = f"here {', '.join(here.split())}" if here else "no match"
            draft.remark(". ".join(filter(None, (here, note.replace("`", "")))) + ".", name)
        elif name in DEFAULTS:
            draft.remark("without effect beside the other options.", name)
        else:
            close = difflib.get_close_matches(name, DEFAULTS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            said = f"not among the options of TRL {VERSION} that are known here.{hint}"
            draft.remark(f"{name} ({given.place}): {said}")
