"""``lgrpo doctor RUN``: what is wrong with a run and what to change, in plain words."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgrpo_lightning.analysis.diagnosis import Finding, findings
from lgrpo_lightning.analysis.recorded_run import RecordedRun
from lgrpo_lightning.commands.messages import report
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.run_folder.names import show_path
from lgrpo_lightning.run_folder.plain import as_json


def main(argv: Sequence[str]) -> int:
    """Diagnose; 0: nothing found, 1: something, 2: the run cannot be read."""
    options = parser().parse_args(list(argv)[1:])
    try:
        if options.patience is not None and options.patience < 2:
            raise UserError(f"--patience is {options.patience}; it must be at least 2.")
        run = RecordedRun(options.run)
        found = findings(run, patience=options.patience)
    except Exception as error:
        report(error)
        return 2
    if options.json:
        print(as_json([plain_values(finding) for finding in found]))
    else:
        print(described(run, found))
    return 1 if found else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="lgrpo doctor", description=__doc__, epilog="Exit status: 0 nothing found, 1 findings, 2 error."
    )
    made.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="the folder of a run (trainer.default_root_dir), also while it goes on",
    )
    made.add_argument(
        "--patience",
        type=int,
        default=None,
        help="rollouts in a row that a cause has to be there; default the run's",
    )
    made.add_argument("--json", action="store_true", help="print the findings as JSON")
    return made


def plain_values(finding: Finding) -> dict[str, Any]:
    """A finding as plain values."""
    return {
        "name": finding.rule.name,
        "text": finding.text,
        "settings": finding.settings,
        "link": finding.link,
    }


def described(run: RecordedRun, found: Sequence[Finding]) -> str:
    """The findings as a person reads them."""
    done = f"{len(run.rollout_metrics)} rollouts of {show_path(run.folder)}"
    if not found:
        return f"Nothing found in {done}."
    lines = [f"{len(found)} finding{'s' if len(found) > 1 else ''} in {done}, causes first:"]
    for number, finding in enumerate(found, 1):
        text = finding.text[0].upper() + finding.text[1:]
        lines += ["", f"{number}. {finding.rule.title.capitalize()} ({finding.rule.name})", f"   {text}"]
        if finding.settings:
            now = ", ".join(f"{key}{_now(value)}" for key, value in finding.settings.items())
            lines.append(f"   Settings: {now}")
        lines.append(f"   More: {finding.link}")
    return "\n".join(lines)


def _now(value: Any) -> str:
    """The value of a setting, where it is short."""
    if isinstance(value, dict):
        value = value.get("class_path")
    return "" if value is None or isinstance(value, list | dict) else f" (now {value})"
