"""``lgrpo``: a dispatcher that imports a command only when it is called, so that ``lgrpo --help`` is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version

from lgrpo_lightning.distributed.leaving import leave_soon, note_status

RUN = "lgrpo_lightning.commands.run"

COMMANDS: Mapping[str, tuple[str, str]] = {
    "fit": (RUN, "train a policy: lgrpo fit --config configs/quickstart.yaml"),
    "validate": (RUN, "measure accuracy, avg@k and pass@k of a checkpoint on the validation sets"),
    "test": (RUN, "the same on the test sets"),
    "predict": (RUN, "write completions with their rewards to a file"),
    "estimate": ("lgrpo_lightning.commands.estimate", "say what memory and time a run will take"),
    "compare": ("lgrpo_lightning.commands.compare", "run several configurations over seeds and say what differs"),
    "doctor": ("lgrpo_lightning.commands.doctor", "say what is wrong with a run and what to change"),
    "export": ("lgrpo_lightning.commands.export", "write a checkpoint of a run as a Hugging Face folder"),
    "serve": ("lgrpo_lightning.commands.serve", "start a vLLM server that VLLMSampler feeds with weights"),
    "tree": ("lgrpo_lightning.commands.tree", "show the process tree of a group of a run"),
    "report": ("lgrpo_lightning.commands.report", "write one HTML page about runs or a comparison"),
    "import-trl": ("lgrpo_lightning.commands.import_trl", "print TRL's GRPO configuration as one for lgrpo fit"),
    "new-plugin": ("lgrpo_lightning.commands.new_plugin", "write a package with a component of your own"),
    "plugins": ("lgrpo_lightning.commands.plugins", "list the installed components"),
}
"""Command → the module whose ``main(argv)`` runs it, and a line of help."""

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


def _run(argv: list[str]) -> int:
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())))
        return 0
    if command == "--version":
        print(f"lgrpo_lightning {version('lgrpo_lightning')}")
        return 0
    if command not in COMMANDS:
        print(_refuse(command), file=sys.stderr)
        return 2
    if COMMANDS[command][0] == RUN and sys.stderr.isatty():
        print(f"lgrpo {command}: loading PyTorch, Lightning and transformers ...", file=sys.stderr, flush=True)
    try:
        status: int | None = import_module(COMMANDS[command][0]).main(argv)
        return status or 0
    except Exception as error:
        from lgrpo_lightning.commands.messages import report

        return report(error)


def _refuse(command: str) -> str:
    close = get_close_matches(command, COMMANDS, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"lgrpo: there is no command '{command}'.{hint} Possible: {', '.join(COMMANDS)}. See lgrpo --help."


if __name__ == "__main__":
    sys.exit(main())
