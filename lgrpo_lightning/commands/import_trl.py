"""``lgrpo import-trl FILE``: a configuration of TRL's GRPO as one for ``lgrpo fit``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lgrpo_lightning.commands.migration.importing import convert_file


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
    add(
        "file",
        type=Path,
        metavar="FILE",
        help="a YAML file as for `trl grpo --config`, or a script with a GRPOConfig, which is read and never run",
    )
    add("--processes", type=_parse_count, default=1, help="how many processes TRL was run on; default 1")
    add("--rows", type=_parse_count, help="rows of the training set: where a schedule ends without max_steps")
    return parser


def _parse_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)
