"""docs/from-trl.md and docs/from-verl.md, made of the tables: python -m tools.migration_pages docs"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lgrpo_lightning.commands.migration.fields import VERSION
from lgrpo_lightning.commands.migration.loss import NORMALIZER
from tools.field import Field
from tools.openrlhf_fields import OPENRLHF
from tools.openrlhf_fields import SOURCE as OPENRLHF_SOURCE
from tools.trl_fields import OLDER, OWN, SCRIPT, SDFT, TRAINING
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

`lgrpo import-trl FILE` converts a configuration of TRL's GRPO trainer. It prints a configuration for `lgrpo fit`.
`FILE` is the YAML file of `trl grpo --config`, or a Python script that contains a `GRPOConfig(…)`.

```bash
lgrpo import-trl grpo.yaml
lgrpo import-trl train_grpo.py --processes 8 --rows 7473
```

- `--processes` is the number of processes that TRL ran on. `data.prompts_per_step` depends on this number.
- `--rows` is the number of training rows. Learning-rate schedules that depend on the number of steps need it.
- A script is parsed but not executed. Only literal values are converted. For every other value the output has a
  comment. If the model or the adapter is not a literal, write it into the output: `lgrpo fit` refuses the file
  until then.
- If a default of TRL differs from the default of this library, the output contains TRL's value with the comment
  "TRL's default".
- Comments at the top of the output list the options that have no equivalent here or another meaning.

For the same rollouts (prompts with completions), the converted configuration gives the same loss as TRL's trainer.
The runs still differ: random numbers and the order of prompts differ, and mini-batches contain complete groups here.

The converted configuration uses the estimator `GRPO`. To use λ-GRPO, set
`--model.advantage_estimator=LambdaGRPO`.

The output names reward functions by import paths:

- A function that the script imports keeps its path.
- A function that the script defines gets the path `<script>_rewards.<name>`. Move the function to a module of that
  name, because an import of the script would start the training.
- If the training of the script is under `if __name__ == "__main__":`, the path is `<script>.<name>`.

`tools` and `environment_factory` become an [`EnvironmentSampler`](environments.md) with paths of the same form. The
method `get_reward` of an environment becomes an `EnvironmentReward`.

The following tables are for TRL {version}. In the column *note*, "A is B" means: write B for TRL's A. "Here" means
this library. A name such as `SAPO.temperature_neg` is the option `temperature_neg` of the component `SAPO`. *Trees*
and padding are explained in [models](models.md).

## GRPOConfig

{own}

Each `loss_type` becomes a class (`model.loss`) and a [normaliser](algorithm.md#normalisers). The class depends on
`importance_sampling_level`, which is `token` or `sequence`:

{losses}

## TrainingArguments

{training}

## trl grpo

These options belong to the command `trl grpo` and are not in `GRPOConfig`.

{script}

## Earlier versions of TRL

{older}

## SDFT

TRL's experimental `SDFTTrainer` is [TeacherLogprobs](components.md#teacherlogprobs) without a `path`, with the
estimator `Distillation`. `lgrpo import-trl` does not convert its configuration. With `distillation_mode:
sampled_token`, the teacher's prompts, the loss and the gradient are the same if `model.loss` is `Reinforce` with
`normalizer: sequence` and `Distillation.coefficient` is 0.

{sdft}

TRL's `SDPOTrainer` has no equivalent: its teacher reads a right completion of the group or feedback.
"""

VERL_PAGE = """# From verl and OpenRLHF

This page lists the most used options of verl and OpenRLHF with their equivalents in this library ("here"). Defaults
differ, so check the default before you omit an option.

In the column *note*, "A is B" means: write B for the A of the other library. A name such as `GRPO.scale` is the
option `scale` of the component `GRPO`. A *rollout* is one batch of prompts with its completions. *Trees* and
padding are explained in [models](models.md).

## verl

Source: {verl_source}.

{verl}

## OpenRLHF

Source: {openrlhf_source}.

{openrlhf}
"""


def pages() -> dict[str, str]:
    """The text of each page, by its name."""
    own, training, script, older, sdft = (table(fields, "TRL") for fields in (OWN, TRAINING, SCRIPT, OLDER, SDFT))
    verl, openrlhf = table(VERL, "verl"), table(OPENRLHF, "OpenRLHF")
    return {
        "from-trl.md": TRL_PAGE.format(
            version=VERSION, own=own, training=training, script=script, older=older, sdft=sdft, losses=losses()
        ),
        "from-verl.md": VERL_PAGE.format(
            verl=verl, verl_source=VERL_SOURCE, openrlhf=openrlhf, openrlhf_source=OPENRLHF_SOURCE
        ),
    }


def table(fields: Mapping[str, Field], whose: str) -> str:
    """A row an option of a library: its name, its default, what it is here."""
    rows = ([f"`{f.name}`", code(f.default), here(f), sentences(f.note)] for f in fields.values())
    return rendered([f"option of {whose}", f"default in {whose}", "here", "note"], rows)


def sentences(note: str) -> str:
    """A note with its last full stop.

    >>> sentences("Rewards get every column"), sentences("")
    ('Rewards get every column.', '')
    """
    return f"{note}." if note else ""


def losses() -> str:
    """What each ``loss_type`` is."""
    rows = []
    for kind, normalizer in NORMALIZER.items():
        classes = OF_LEVEL.get(kind, ("ClippedSurrogate", "GSPO"))
        rows.append([f"`{kind}`", *(f"`{c}`" if c else "no equivalent" for c in classes), f"`{normalizer}`"])
    return rendered(["`loss_type`", "class with `token`", "class with `sequence`", "`normalizer`"], rows)


def rendered(header: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    in_one_line = ([cell.replace("\n", "\\n") for cell in cells] for cells in lines)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in in_one_line).replace("|  |", "| |")


def here(field: Field) -> str:
    """The keys and components of a field, as code."""
    return ", ".join(f"`{name}`" for name in field.here) or "no equivalent"


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
