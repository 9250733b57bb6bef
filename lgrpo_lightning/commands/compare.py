"""``lgrpo compare``: the same training with several estimators, or whatever else differs, over seeds."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from lgrpo_lightning.commands import child
from lgrpo_lightning.commands.resume import flatten
from lgrpo_lightning.distributed.interruption import Interrupted
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.monitoring.figures import draw_all
from lgrpo_lightning.monitoring.markdown import write_markdown
from lgrpo_lightning.monitoring.plan import Arm, Run, build_arms, make_slug, name_choices
from lgrpo_lightning.monitoring.pool import run_all
from lgrpo_lightning.monitoring.results import (
    TREE,
    Measure,
    choose_best,
    read_metrics,
    settle_metric,
    tabulate_arms,
    tabulate_curves,
    tabulate_runs,
    tabulate_tuning,
)
from lgrpo_lightning.monitoring.variations import Choice, parse_choices, parse_seeds
from lgrpo_lightning.rollouts.names import CHECKPOINTS, show_path
from lgrpo_lightning.rollouts.reading import read_config
from lgrpo_lightning.rollouts.whole_files import write_whole

DESCRIPTION = """\
Runs the same training several times, in processes, and says what the difference makes.

What is compared are several --config, or the values of the first --vary; every further --vary repeats the comparison
in another setting. Each arm runs once a seed; differences are paired over seeds, against the first arm. Started again,
what is finished is not repeated, and what was cut off goes on.

  lgrpo compare --config configs/quickstart.yaml --vary model.advantage_estimator=GRPO,LambdaGRPO --seeds 0-4

Further flags are those of lgrpo fit and go to every run: --trainer.max_steps=50
"""


def main(argv: Sequence[str]) -> int:
    """Compare what ``argv`` asks for."""
    options, flags = parse(list(argv)[1:])
    signal.signal(signal.SIGTERM, _stop)  # else the runs would go on alone
    try:
        return compare(options, flags)
    except (KeyboardInterrupt, Interrupted) as stop:
        print("\nStopped; the runs have saved their state. The same command goes on.")
        return 128 + (stop.signum if isinstance(stop, Interrupted) else signal.SIGINT)


def _stop(signum: int, frame: object) -> None:
    raise Interrupted(signum)


def parse(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of the comparison, and the flags of every run."""
    parser = argparse.ArgumentParser(
        prog="lgrpo compare",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-c", "--config", action="append", required=True, help="a configuration file; several are compared")
    add("--vary", action="append", default=[], metavar="KEY=A,B", help="values of a key to compare, or settings")
    add("--seeds", default="0-4", help="such as 0-9 or 0,1,5; default 0-4")
    add("--tune", action="append", default=[], metavar="KEY=A,B", help="values among which each arm takes its best")
    add("--tune_seeds", default="1000-1002", help="seeds for that, of their own; default 1000-1002")
    add("--out", type=Path, default=Path("runs/compare"), help="folder to write; default runs/compare")
    add("--jobs", type=int, default=0, help="runs at a time; default: one a processor, on other devices one")
    add("--threads", type=int, default=1, help="threads of a run; default 1")
    add(
        "--metric",
        default="",
        help="what is measured: a column of metrics.csv; default val/avg@k where runs log it, else reward",
    )
    add("--label", default="", help="what tables and pictures call it")
    add("--last", type=int, default=0, help="rollouts whose mean is a run's value; default the last tenth")
    add("--share", type=float, default=0.9, help="of the way to the first arm's peak; default .9")
    add("--drop_checkpoints", action="store_true", help="remove the checkpoints of a run when it is finished")
    options, flags = parser.parse_known_args(words)
    if wrong := [flag for flag in flags if not flag.startswith("--") or "=" not in flag]:
        parser.error(f"flags of the runs are written --key=value; not so: {' '.join(wrong)}")
    return options, flags


def compare(options: argparse.Namespace, flags: Sequence[str]) -> int:
    """Tune, run, and write tables and pictures; the exit status."""
    check(options)
    measure = Measure(metric=options.metric, label=options.label, last=options.last, share=options.share)
    arms = build_arms(options.config, [parse_choices("--vary", text) for text in options.vary])
    comparison = Comparison(options, flags)
    configs = {arm: comparison.write_config(arm) for arm in arms}
    if options.tune:
        best = tune(options, measure, comparison, configs)
        arms = [replace(arm, choices=(*arm.choices, *best[arm]), tuned=name_choices(best[arm])) for arm in arms]
        configs = {arm: comparison.write_config(arm) for arm in arms}
    runs = [
        Run(arm=arm, seed=seed, folder=options.out / "runs" / arm.place / f"seed-{seed}", config=configs[arm])
        for arm in arms
        for seed in parse_seeds(options.seeds)
    ]
    failed = comparison.run(runs)
    if finished := [run for run in runs if run.finished]:
        summarise(finished, measure, options.out)
    if failed:
        print(f"Left out, as they failed: {', '.join(run.label for run in failed)}.")
    return 1 if failed else 0


def check(options: argparse.Namespace) -> None:
    """Refuse options with which nothing would be compared."""
    if not 0 < options.share <= 1 or options.last < 0 or options.threads < 1 or options.jobs < 0:
        raise UserError("--share is above 0 and at most 1, --last and --jobs at least 0, --threads at least 1.")
    if common := set(parse_seeds(options.seeds)) & set(parse_seeds(options.tune_seeds)):
        raise UserError(f"--seeds and --tune_seeds have {sorted(common)} in common; what was tuned on is not compared.")


def tune(
    options: argparse.Namespace, measure: Measure, comparison: Comparison, configs: Mapping[Arm, Path]
) -> dict[Arm, tuple[Choice, ...]]:
    """Try every point of the grid for every arm, write ``tuning.csv``; each arm's best point."""
    folder, points = options.out / "tuning", list(product(*(parse_choices("--tune", text) for text in options.tune)))
    runs = [
        Run(
            arm=arm,
            seed=seed,
            folder=folder / arm.place / make_slug(" ".join(c.flag[2:] for c in point)) / f"seed-{seed}",
            config=config,
            extra=point,
        )
        for arm, config in configs.items()
        for point in points
        for seed in parse_seeds(options.tune_seeds)
    ]
    if failed := comparison.run(runs):
        raise UserError(f"Nothing was compared, as {len(failed)} of the runs to tune on failed; see above.")
    table = tabulate_tuning(runs, measure)
    write_whole(options.out / "tuning.csv", table.to_csv(index=False))
    return choose_best(runs, table)


def summarise(runs: Sequence[Run], measure: Measure, out: Path) -> None:
    """Write tables and pictures, and print the table."""
    tables = read_metrics(runs)
    runs = [run for run in runs if run.folder in tables]
    measure = settle_metric(measure, tables.values())
    table = tabulate_runs(runs, tables, measure)
    summary = tabulate_arms(table)
    curves = tabulate_curves(runs, tables, list(dict.fromkeys([measure.metric, *TREE])))
    text = write_markdown(summary, measure)
    for name, content in (
        ("table.md", text),
        ("table.csv", summary.to_csv(index=False)),
        ("runs.csv", table.to_csv(index=False)),
        ("curves.csv", curves.round(5).to_csv(index=False)),
    ):
        write_whole(out / name, content)
    pictures = draw_all(curves, summary, measure, out)
    print(f"\n{text}")
    print(f"Everything is in {show_path(out)}: table.md, table.csv, runs.csv (one row a run), curves.csv,")
    print(f"  {', '.join(pictures)} (each .png and .svg), and every run in runs/.")


class Comparison:
    """Runs what it is given into the folder of a comparison.

    Args:
        options: The command line.
        flags: Of every run.
    """

    def __init__(self, options: argparse.Namespace, flags: Sequence[str]) -> None:
        self.options, self.flags = options, list(flags)
        self.configs: dict[Path, dict[str, Any]] = {}

    def write_config(self, arm: Arm) -> Path:
        """Write an arm's complete configuration, or check that it is the one that its runs here were made with."""
        flags = [choice.flag for choice in arm.choices]
        text = child.print_config([f"--config={arm.config}", *self.flags, *flags])
        part = "tuned" if arm.tuned else "as_given"
        path: Path = self.options.out / "arms" / part / arm.place.with_name(arm.place.name + ".yaml")
        config = yaml.safe_load(text)
        if config["trainer"]["logger"] is False:
            raise UserError(f"{arm.config} sets trainer.logger: false, but what is compared is in metrics.csv.")
        if path.exists():
            before, now = dict(flatten(read_config(path))), dict(flatten(config))
            # an option of a newer version is no difference
            if differing := [key for key in before if key in now and before[key] != now[key]]:
                raise UserError(
                    f"{show_path(self.options.out)} holds a comparison in which {arm.label} has another configuration: "
                    f"{differing[0]} differs from {show_path(path)}. Name another folder with --out, or remove this "
                    "one."
                )
        else:
            write_whole(path, text, private=True)
        self.configs[path] = config
        return path

    def run(self, runs: Sequence[Run]) -> list[Run]:
        """Run them; which of them failed."""
        cpu = all(self.configs[run.config]["trainer"]["accelerator"] == "cpu" for run in runs)
        jobs = self.options.jobs or (max(1, (os.cpu_count() or 1) // self.options.threads) if cpu else 1)
        rollouts = {run.folder: self._count_rollouts(run) for run in runs}
        return run_all(runs, self._start, jobs=jobs, rollouts=rollouts, finish=self._finish)

    def _finish(self, run: Run) -> None:
        if self.options.drop_checkpoints:
            shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)

    def _start(self, run: Run) -> Any:
        words = [f"--config={run.config}", *(c.flag for c in run.extra), f"--seed_everything={run.seed}"]
        one = child.runs_on_one_device(self.configs[run.config])
        return child.start_fit(words, run.folder, threads=self.options.threads, forked=one)

    def _count_rollouts(self, run: Run) -> int:
        """Rollouts of a run; 0 where its configuration does not say."""
        config = self.configs[run.config]
        updates, steps = config["model"]["updates"], int(config["trainer"]["max_steps"])
        limit = int(updates["max_rollouts"])
        return limit if limit > 0 else max(0, steps) // (int(updates["iterations"]) * int(updates["mini_batches"]))
