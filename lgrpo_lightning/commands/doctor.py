"""``lgrpo doctor RUN``: what is wrong with a run and what to change, in plain words."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgrpo_lightning.commands.messages import report
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.monitoring.diagnosis import Finding, diagnose
from lgrpo_lightning.monitoring.recorded_run import RecordedRun
from lgrpo_lightning.rollouts.names import show_path
from lgrpo_lightning.rollouts.plain import to_json


def main(argv: Sequence[str]) -> int:
    """Diagnose; 0: nothing found, 1: something, 2: the run cannot be read."""
    options = build_parser().parse_args(list(argv)[1:])
    try:
        if options.patience is not None and options.patience < 2:
            raise UserError(f"--patience is {options.patience}; it must be at least 2.")
        run = RecordedRun(options.run)
        findings = diagnose(run, patience=options.patience)
    except Exception as error:  # also of a bug: status 1 says that there are findings
        report(error)
        return 2
    if options.json:
        plain = [{"name": f.rule.name, "text": f.text, "settings": f.settings, "link": f.link} for f in findings]
        print(to_json(plain))
    else:
        print(describe(run, findings))
    return 1 if findings else 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="lgrpo doctor", description=__doc__, epilog="Exit status: 0 nothing found, 1 findings, 2 error."
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a run (trainer.default_root_dir), also while it goes on")
    add("--patience", type=int, help="rollouts in a row that a cause has to be there; default the run's")
    add("--json", action="store_true", help="print the findings as JSON")
    return parser


def describe(run: RecordedRun, findings: Sequence[Finding]) -> str:
    """The findings as a person reads them."""
    done = f"{len(run.rollout_metrics)} rollouts of {show_path(run.folder)}"
    if not findings:
        return f"Nothing found in {done}."
    lines = [f"{len(findings)} finding{'s' if len(findings) > 1 else ''} in {done}, causes first:"]
    for number, finding in enumerate(findings, 1):
        text = finding.text[0].upper() + finding.text[1:]
        lines += ["", f"{number}. {finding.rule.title.capitalize()} ({finding.rule.name})", f"   {text}"]
        if finding.settings:
            now = ", ".join(f"{key}{_describe_value(value)}" for key, value in finding.settings.items())
            lines.append(f"   Settings: {now}")
        lines.append(f"   More: {finding.link}")
    return "\n".join(lines)


def _describe_value(value: Any) -> str:
    """The value of a setting, where it is short."""
    if isinstance(value, dict):
        value = value.get("class_path")
    return "" if value is None or isinstance(value, list | dict) else f" (now {value})"
