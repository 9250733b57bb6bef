"""docs/from-trl.md and docs/from-verl.md, made of the tables: python -m tools.migration_pages docs"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lgrpo_lightning.commands.migration.field import Field
from lgrpo_lightning.commands.migration.loss import NORMALIZER
from lgrpo_lightning.commands.migration.training_fields import OLDER, SCRIPT, TRAINING
from lgrpo_lightning.commands.migration.trl_fields import OWN, VERSION
from tools.openrlhf_fields import OPENRLHF
from tools.openrlhf_fields import SOURCE as OPENRLHF_SOURCE
from tools.verl_fields import SOURCE as VERL_SOURCE
from tools.verl_fields import VERL

OF_LEVEL = {
    "luspo": ("ClippedSurrogate", "LUSPO"),
    "cispo": ("CISPO", ""),
    "sapo": ("SAPO", ""),
    "vespo": ("VESPO", "VESPO"),
}
"""``loss_type`` → class where ratios are of tokens, and where they are of completions; the others are clipped."""

TRL_PAGE = """# From TRL

`lgrpo import-trl FILE` converts a TRL configuration for GRPO and prints a configuration for `lgrpo fit`. `FILE`
is the YAML of `trl grpo --config`, or a script with a `GRPOConfig(…)`.

```bash
lgrpo import-trl grpo.yaml
lgrpo import-trl train_grpo.py --processes 8 --rows 7473
```

- `--processes` is the number of processes that TRL ran on. It determines `prompts_per_step`.
- `--rows` is the number of training rows. Schedules that need their last step use it.
- A script is parsed and never run. Only literals are read; a comment names every other value. If the model or
  adapter is not a literal, fill it in: `lgrpo fit` refuses the file until then.
- Defaults of TRL that differ from this library's are written, with the comment "TRL's default".
- Comments at the top name options without a match or with another meaning.

On the same rollouts the loss of the configuration equals that of TRL's trainer; a test checks this. The runs
still differ, because random numbers, the order of prompts and mini-batches (complete groups) differ.

The estimator is `GRPO`. For λ-GRPO set `--model.advantage_estimator=LambdaGRPO`.

Reward functions of a script are named by their import path. A function that the script imports keeps that path.
A function that the script defines becomes `<script>_rewards.<name>`; move it to such a module, because
importing the script would start the training. If the training is under `if __name__ == "__main__":`, the path
is `<script>.<name>`. `tools` and `environment_factory` become an [`EnvironmentSampler`](environments.md) in the
same way, and `get_reward` of an environment becomes an `EnvironmentReward`.

The tables are made from `lgrpo_lightning/commands/migration` for TRL {version}.

## GRPOConfig

{own}

Each `loss_type` is a loss class and a normaliser:

{losses}

## TrainingArguments

{training}

## trl grpo

These are the options of the command that are not in `GRPOConfig`.

{script}

## Earlier versions

{older}
"""

VERL_PAGE = """# From verl and OpenRLHF

This page lists the most used options of verl and OpenRLHF with their equivalents. Defaults differ, so check the
default before you omit an option.

## verl

Source: {verl_source}.

{verl}

## OpenRLHF

Source: {openrlhf_source}.

{openrlhf}
"""


def pages() -> dict[str, str]:
    """The text of each page, by its name."""
    own, training, script, older, verl, openrlhf = map(table, (OWN, TRAINING, SCRIPT, OLDER, VERL, OPENRLHF))
    return {
        "from-trl.md": TRL_PAGE.format(
            version=VERSION, own=own, training=training, script=script, older=older, losses=losses()
        ),
        "from-verl.md": VERL_PAGE.format(
            verl=verl, verl_source=VERL_SOURCE, openrlhf=openrlhf, openrlhf_source=OPENRLHF_SOURCE
        ),
    }


def table(fields: Mapping[str, Field]) -> str:
    """A row an option: its name, its default there, what it is here."""
    rows = ([f"`{f.name}`", code(f.default), here(f), f.note] for f in fields.values())
    return rendered(["option", "default there", "here", ""], rows)


def losses() -> str:
    """What each ``loss_type`` is."""
    rows = []
    for kind, normalizer in NORMALIZER.items():
        classes = OF_LEVEL.get(kind, ("ClippedSurrogate", "GSPO"))
        rows.append([f"`{kind}`", *(f"`{c}`" if c else "no match" for c in classes), f"`{normalizer}`"])
    return rendered(["`loss_type`", "ratios of tokens", "of completions", "`normalizer`"], rows)


def rendered(header: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines).replace("|  |", "| |")


def here(field: Field) -> str:
    """The keys and components of a field, as code."""
    return ", ".join(f"`{name}`" for name in field.here) or "no match"


def code(value: Any) -> str:
    """A default, as YAML writes it.

    >>> code(None), code(True), code(1e-6)
    ('`null`', '`true`', '`1e-06`')
    """
    words = {None: "null", True: "true", False: "false"}
    return f"`{words[value] if value is None or isinstance(value, bool) else value}`" if value != "" else ""


if __name__ == "__main__":
    for name, text in pages().items():
        (Path(sys.argv[1]) / name).write_text(text, encoding="utf-8")
