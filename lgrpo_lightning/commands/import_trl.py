"""``lgrpo import-trl FILE``: a configuration of TRL's GRPO as one for ``lgrpo fit``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lgrpo_lightning.commands.messages import report
from lgrpo_lightning.commands.migration.importing import imported


def main(argv: Sequence[str]) -> int:
    """Print the configuration that ``argv`` asks for."""
    options = parser().parse_args(list(argv)[1:])
    try:
        text = imported(options.file, processes=options.processes, rows=options.rows)
    except Exception as error:
        return report(error)
    print(text, end="")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="lgrpo import-trl",
        description="Print the configuration for `lgrpo fit` that does what a file asks TRL's GRPO for.",
    )
    made.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a YAML file as for `trl grpo --config`, or a script with a GRPOConfig, which is read and never run",
    )
    made.add_argument(
        "--processes", type=_count, default=1, help="how many processes TRL was run on; default 1"
    )
    made.add_argument(
        "--rows",
        type=_count,
        default=None,
        help="rows of the training set: where a schedule ends without max_steps",
    )
    return made


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)
