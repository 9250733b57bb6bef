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

`lgrpo import-trl FILE` prints the configuration for `lgrpo fit` that does what a file asks TRL's GRPO for. `FILE` is
the YAML of `trl grpo --config`, or a script with a `GRPOConfig(…)`. A script is parsed and never run: literals are
read, and what is none is told as a comment. A model or adapter that is none has to be filled in: `lgrpo fit` refuses
the file before.

```bash
lgrpo import-trl grpo.yaml
lgrpo import-trl train_grpo.py --processes 8 --rows 7473
```

`--processes` is how many processes TRL was run on, for `prompts_per_step`; `--rows` the number of training rows, for a
schedule that has to know where it ends.

What TRL has by default and this library has not is written too, with the comment "TRL's default". Comments at the top
say what has no match or another meaning. On the same rollouts the loss of the configuration is that of TRL's trainer,
by a test. Other draws, another order of prompts and mini-batches of whole groups make the runs themselves different.

The estimator is `GRPO`; `--model.advantage_estimator=LambdaGRPO` is what changes to λ-GRPO.

A script's reward functions are named by import path: one that the script imports by that, one that it defines as
`<script>_rewards.<name>`, for it has to be moved to a module of its own: importing the script would train. Where the
training stands behind `if __name__ == "__main__":` it is `<script>.<name>`. `tools` and `environment_factory` become an
`EnvironmentSampler` likewise ([environments](environments.md)), an environment's `get_reward` an `EnvironmentReward`.

The tables are of TRL {version} and made from `lgrpo_lightning/commands/migration`.

## GRPOConfig

{own}

A `loss_type` is a class and its normaliser:

{losses}

## TrainingArguments

{training}

## trl grpo

Options of the command beside those of `GRPOConfig`.

{script}

## Earlier versions

{older}
"""

VERL_PAGE = """# From verl and OpenRLHF

Where their most used options are here. Defaults differ: read the column before leaving one out.

## verl

Read from {verl_source}.

{verl}

## OpenRLHF

Read from {openrlhf_source}.

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
