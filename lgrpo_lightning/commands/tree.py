"""``lgrpo tree RUN``: the process tree of a group, and what the run, GRPO and λ-GRPO do to each of its steps."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lgrpo_lightning.distributed.terminal import escape_unprintable, is_on_terminal
from lgrpo_lightning.monitoring.pages import render_page
from lgrpo_lightning.monitoring.recorded_group import RecordedGroup, read_group
from lgrpo_lightning.monitoring.recorded_run import RecordedRun
from lgrpo_lightning.monitoring.tree_text import write_header, write_steps
from lgrpo_lightning.rollouts.names import show_path
from lgrpo_lightning.rollouts.whole_files import write_whole


def main(argv: Sequence[str]) -> int:
    """Show the group that ``argv`` names."""
    options = build_parser().parse_args(list(argv)[1:])
    group = read_group(RecordedRun(options.run), options.rollout, options.prompt)
    if options.html is not None:
        title = f"Process tree of {show_path(options.run)}"
        write_whole(options.html, render_page("tree.html", title=title, group=group))
    show(group, options.width)
    if options.html is not None:
        print(f"Wrote {show_path(options.html)}.")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="lgrpo tree", description=__doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a run (trainer.default_root_dir)")
    add("--rollout", type=int, help="number of the rollout, from 0; default the last")
    add("--prompt", type=int, help="which group of the rollout, from 0; default the one with the largest updates")
    add("--html", type=Path, help="write a self-contained HTML page here, too")
    add("--width", type=int, help="characters of a step's text to show; default what fits")
    return parser


def show(group: RecordedGroup, width: int | None) -> None:
    """Print the tree: coloured and fitted on a terminal, whole plain lines in a pipe."""
    if not is_on_terminal():
        for line in (*write_header(group), *write_steps(group, most=width)):
            sys.stdout.write(escape_unprintable(line.plain) + "\n")
        return
    from rich.console import Console

    console = Console()
    for line in write_header(group):
        console.print(line)
    for line in write_steps(group, most=width or max(20, console.width - 60)):
        console.print(line, overflow="ellipsis", no_wrap=True)
