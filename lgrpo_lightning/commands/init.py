"""``lgrpo init [TASK] [FILE]``: a commented configuration that runs as it is, and the files that it names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lgrpo_lightning.commands.new_plugin import write_templates
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.names import show_path

TASKS = {
    "math": "Problems of your own with known answers",
    "reward": "A reward function of your own",
    "tools": "An environment with a tool",
    "code": "Programs that have to pass tests",
    "judge": "A language model behind a server as judge",
}
"""Task → what the completions are scored by."""
MODULES = {"reward": "my_reward.py", "tools": "my_tools.py"}
"""Task → the Python file of its own."""
PLUGINS = {task: f"pip install -e plugins/lgrpo-{task}" for task in ("code", "judge")}
"""Task → how to install the plug-in that it needs."""


def main(argv: Sequence[str]) -> int:
    """Write the files that ``argv`` asks for, or list the tasks."""
    options = build_parser().parse_args(list(argv)[1:])
    if options.task is None:
        print("lgrpo init TASK [FILE] writes a configuration to start from. TASK is one of:")
        for task, summary in TASKS.items():
            print(f"  {task:<8} {summary}{f' (plug-in lgrpo-{task})' if task in PLUGINS else ''}")
        return 0
    print(f"Wrote {', '.join(map(show_path, write(options.task, options.file)))}. Next:")
    if options.task in PLUGINS:
        print(f"  {PLUGINS[options.task]}    # in a copy of the repository")
    folder = show_path(options.file.parent)
    print(f"  {'' if folder == '.' else f'cd {folder} && '}lgrpo fit --config {options.file.name}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="lgrpo init", description=__doc__)
    parser.add_argument("task", nargs="?", choices=TASKS, metavar="TASK", help=f"{', '.join(TASKS)}; none lists them")
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=Path("run.yaml"),
        metavar="FILE",
        help="default run.yaml",
    )
    return parser


def write(task: str, file: Path) -> list[Path]:
    """Write the configuration of a task as ``file``, and the files that it names beside it; their paths."""
    module = [MODULES[task]] if task in MODULES else []
    paths = {name: file.with_name(name) for name in ("train.jsonl", *module)} | {"run.yaml": file}
    for path in paths.values():
        if path.exists():
            raise UserError(
                f"{show_path(path)} is there already, and nothing is overwritten. Name a file in another folder: "
                f"lgrpo init {task} my_{task}/run.yaml"
            )
    values = {"task": task, "summary": TASKS[task], "file": file.name, "plugin": PLUGINS.get(task)}
    write_templates({f"init/{name}": path for name, path in paths.items()}, **values)
    return list(reversed(paths.values()))
