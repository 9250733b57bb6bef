"""``lgrpo``: a dispatcher that imports a command only when it is called, so that ``lgrpo --help`` is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from types import ModuleType

from lgrpo_lightning.distributed.leaving import leave_soon, note_status
from lgrpo_lightning.errors import hint

RUNS = ("fit", "validate", "test", "predict")
COMMANDS = {
    "init": "write a configuration to start from: lgrpo init math",
    "fit": "train a policy: lgrpo fit --config configs/quickstart.yaml",
    "validate": "measure accuracy, avg@k and pass@k of a checkpoint on the validation sets",
    "test": "the same on the test sets",
    "predict": "write completions with their rewards to a file",
    "estimate": "say what memory and time a run will take",
    "compare": "run several configurations over seeds and say what differs",
    "doctor": "say what is wrong with a run and what to change",
    "export": "write a checkpoint of a run as a Hugging Face folder",
    "serve": "start a vLLM server that VLLMSampler feeds with weights",
    "tree": "show the process tree of a group of a run",
    "report": "write one HTML page about runs or a comparison",
    "import-trl": "print TRL's GRPO configuration as one for lgrpo fit",
    "new-plugin": "write a package with a component of your own",
    "plugins": "list the installed components",
}
"""Command → a line of help."""

HELP = """\
Fine-tune language models with GRPO and λ-GRPO.

usage: lgrpo COMMAND [options]     lgrpo COMMAND --help for its options

{commands}

Every option of a run has a place in its YAML file and a flag of the same name:
  lgrpo fit --config configs/quickstart.yaml --model.advantage_estimator=GRPO --trainer.max_steps=50
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. Without ``argv`` it is the process's own, which ends soon afterwards."""
    if argv is not None:
        return _run(list(argv))
    # before torch is imported: its threads would spin while they wait, which takes the cores from each other where
    # other processes are busy
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        note_status(status := _run(sys.argv[1:]))
        return status
    finally:
        leave_soon()


def import_command(command: str) -> ModuleType:
    """The module whose ``main(argv)`` runs a command."""
    name = "run" if command in RUNS else command.replace("-", "_")
    return import_module(f"lgrpo_lightning.commands.{name}")


def _run(argv: list[str]) -> int:
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())))
        return 0
    if command == "--version":
        print(f"lgrpo_lightning {version('lgrpo_lightning')}")
        return 0
    if command not in COMMANDS:
        possible = f"Possible: {', '.join(COMMANDS)}. See lgrpo --help."
        print(f"lgrpo: there is no command '{command}'.{hint(command, COMMANDS)} {possible}", file=sys.stderr)
        return 2
    if command in RUNS and sys.stderr.isatty():
        print(f"lgrpo {command}: loading PyTorch, Lightning and transformers ...", file=sys.stderr, flush=True)
    try:
        status: int | None = import_command(command).main(argv)
        return status or 0
    except Exception as error:
        from lgrpo_lightning.commands.messages import report

        return report(error)


if __name__ == "__main__":
    sys.exit(main())
