"""A file for TRL → a configuration for ``lgrpo fit``, as text."""

from __future__ import annotations

import difflib
from pathlib import Path

from lgrpo_lightning.commands.migration.batch import batch, write_batch
from lgrpo_lightning.commands.migration.draft import Draft
from lgrpo_lightning.commands.migration.loss import write_estimator, write_loss
from lgrpo_lightning.commands.migration.model import write_policy, write_sampler
from lgrpo_lightning.commands.migration.objective import write_importance, write_objective, write_sampling
from lgrpo_lightning.commands.migration.prompts import write_data, write_rewards
from lgrpo_lightning.commands.migration.python_file import read_python
from lgrpo_lightning.commands.migration.recipe import FIELDS, Recipe
from lgrpo_lightning.commands.migration.text import page
from lgrpo_lightning.commands.migration.training import (
    write_length,
    write_optimizer,
    write_trainer,
    write_validation,
)
from lgrpo_lightning.commands.migration.trl_fields import VERSION
from lgrpo_lightning.commands.migration.yaml_file import read_yaml
from lgrpo_lightning.errors import NotFoundError, UserError

READERS = {".yaml": read_yaml, ".yml": read_yaml, ".py": read_python}


def imported(path: Path, *, processes: int = 1, rows: int | None = None) -> str:
    """The configuration that does what ``path`` asks TRL for.

    Args:
        path: A YAML file for ``trl grpo --config``, or a script, which is read and never run.
        processes: How many processes TRL was run on.
        rows: Rows of the training set, where the schedule has to know.

    Raises:
        OSError, ValueError: The file is not there, cannot be read, or has what TRL refuses.
    """
    if path.suffix not in READERS:
        raise UserError(
            f"{path}: a file for TRL ends with .yaml (as for `trl grpo --config`) or .py (a script)."
        )
    if not path.is_file():
        raise NotFoundError(f"There is no file {path} (looked in {Path.cwd()}).")
    recipe = READERS[path.suffix](path)
    return page(draft(recipe, processes=processes, rows=rows))


def draft(recipe: Recipe, *, processes: int = 1, rows: int | None = None) -> Draft:
    """The configuration of a recipe."""
    made, new = batch(recipe, processes), Draft(recipe)
    write_trainer(new, made)
    write_policy(new)
    write_rewards(new)
    write_estimator(new)
    write_sampler(new)
    write_sampling(new)
    write_loss(new)
    write_objective(new)
    write_importance(new)
    write_batch(new, made, processes)
    write_optimizer(new)
    write_length(new, made, rows)
    write_validation(new, made, processes)
    write_data(new)
    _tell_the_rest(new)
    return new


def _tell_the_rest(new: Draft) -> None:
    """What the file sets and no rule has looked at: the note of its table row, or that it is not known."""
    for name, given in new.recipe.given.items():
        if name in new.asked:
            continue
        if name.startswith("vllm_") and not new.recipe.value("use_vllm"):
            new.remark("without effect where use_vllm is false.", name)
            continue
        if name in FIELDS:
            field = FIELDS[name]
            here = f"here {', '.join(field.here)}" if field.here else "no match"
            new.remark(". ".join(filter(None, (here, field.note.replace("`", "")))) + ".", name)
            continue
        close = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        new.remark(
            f"{name} ({given.place}): not among the options of TRL {VERSION} that are known here.{hint}"
        )
