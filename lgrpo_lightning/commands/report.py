"""``lgrpo report RUN…``: one self-contained HTML page about a run, several runs, or a comparison."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.monitoring.report import is_comparison, report_comparison, report_runs
from lgrpo_lightning.rollouts.names import REPORT, show_path
from lgrpo_lightning.rollouts.whole_files import write_whole


def main(argv: Sequence[str]) -> int:
    """Write the page."""
    options = build_parser().parse_args(list(argv)[1:])
    out = options.out or options.runs[0] / REPORT
    compared = [folder for folder in options.runs if is_comparison(folder)]
    if compared and len(options.runs) > 1:
        raise UserError(f"{show_path(compared[0])} is a comparison; a comparison has a report of its own.")
    write_whole(out, report_comparison(compared[0]) if compared else report_runs(options.runs))
    print(f"Wrote {show_path(out)}.")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="lgrpo report", description=__doc__)
    add = parser.add_argument
    runs = "folders of runs (trainer.default_root_dir), or the folder of one comparison (lgrpo compare --out)"
    add("runs", type=Path, nargs="+", metavar="RUN", help=runs)
    add("--out", type=Path, help=f"file to write; default {REPORT} in the first folder")
    return parser
