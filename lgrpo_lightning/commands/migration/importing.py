"""A file for TRL → a configuration for ``lgrpo fit``, as text."""

from __future__ import annotations

import difflib
from pathlib import Path

from lgrpo_lightning.commands.migration.batch import write_batch
from lgrpo_lightning.commands.migration.draft import Draft
from lgrpo_lightning.commands.migration.fields import DEFAULTS, NOTES, VERSION
from lgrpo_lightning.commands.migration.loss import write_estimator, write_loss
from lgrpo_lightning.commands.migration.model import write_policy, write_sampler
from lgrpo_lightning.commands.migration.objective import write_importance, write_objective, write_sampling
from lgrpo_lightning.commands.migration.prompts import write_data, write_rewards
from lgrpo_lightning.commands.migration.python_file import read_python
from lgrpo_lightning.commands.migration.recipe import Recipe
from lgrpo_lightning.commands.migration.text import write_yaml
from lgrpo_lightning.commands.migration.training import (
    write_length,
    write_optimizer,
    write_trainer,
    write_validation,
)
from lgrpo_lightning.commands.migration.yaml_file import read_yaml
from lgrpo_lightning.errors import NotFoundError, UserError

CARRIED = {
    "seed": "seed_everything",
    "data_seed": "data.seed",
    "shuffle_dataset": "data.shuffle",
    "chat_template_kwargs": "data.chat_template_kwargs",
    "gradient_checkpointing": "model.policy.gradient_checkpointing",
    "entropy_coef": "model.objective.entropy_coef",
    "off_policy_mask_threshold": "model.objective.off_policy_kl",
    "mask_truncated_completions": "model.updates.mask_truncated",
}
"""Fields whose values are those of a key here."""
READERS = {".yaml": read_yaml, ".yml": read_yaml, ".py": read_python}


def convert_file(path: Path, *, processes: int = 1, rows: int | None = None) -> str:
    """The configuration that does what ``path`` asks TRL for.

    Args:
        path: A YAML file for ``trl grpo --config``, or a script, which is read and never run.
        processes: How many processes TRL was run on.
        rows: Rows of the training set, where the schedule has to know.

    Raises:
        OSError, ValueError: The file is not there, cannot be read, or has what TRL refuses.
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
    write_trainer(draft, batch, processes)
    for write in (
        *(write_policy, write_rewards, write_estimator, write_sampler, write_sampling, write_loss),
        *(write_objective, write_importance, write_optimizer),
    ):
        write(draft)
    write_length(draft, batch, rows)
    write_validation(draft, batch, processes)
    write_data(draft)
    for name, key in CARRIED.items():
        draft.carry(name, key)
    _remark_the_rest(draft)  # last: it tells of what nothing has asked for
    return draft


def _remark_the_rest(draft: Draft) -> None:
    """What the file sets and no rule has looked at: what it is here, if anything, or that it is not known."""
    for name, given in draft.recipe.given.items():
        if name in draft.asked:
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
