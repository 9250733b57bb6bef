"""``lgrpo export RUN OUT``: a checkpoint of a run as a Hugging Face folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lgrpo_lightning.checkpoints.lookup import find_named_checkpoint
from lgrpo_lightning.commands.hub import open_hub, push_folder
from lgrpo_lightning.commands.messages import quieten
from lgrpo_lightning.errors import NotFoundError, UserError
from lgrpo_lightning.rollouts.names import CHECKPOINTS, CONFIG, show_path
from lgrpo_lightning.rollouts.reading import read_config

CARD = "README.md"
"""The model card of a folder on the Hugging Face Hub."""


def main(argv: Sequence[str]) -> int:
    """Export what ``argv`` asks for."""
    options = build_parser().parse_args(list(argv)[1:])
    quieten()
    check_folders(options.run, options.out)
    if options.public and options.push is None:
        raise UserError("--public is for --push REPO.")
    path = find_named_checkpoint(options.checkpoint, options.run / CHECKPOINTS)
    hub = None if options.push is None else open_hub(options.push, public=options.public)  # before the work is done
    loader = export_checkpoint(options, path)
    print(f"Wrote {show_path(options.out)} from {show_path(path)}. Load it with:")
    print(f'  {loader}.from_pretrained("{show_path(options.out)}")')
    if options.adapter:
        print("It needs peft, and the base model where adapter_config.json says it is.")
    if hub is not None:
        print(f"Pushed to {push_folder(hub, options.out, options.push, public=options.public)}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="lgrpo export", description=__doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a run (trainer.default_root_dir)")
    add("out", type=Path, metavar="OUT", help="the folder to write")
    add("--checkpoint", help="file in checkpoints/, or a path; default last.ckpt")
    add("--adapter", action="store_true", help="write the LoRA adapter alone, not merged")
    types = "type of the weights in the files; default that of the base, of an adapter that of training"
    add("--dtype", choices=["float32", "bfloat16", "float16"], help=types)
    objects = "false reads a checkpoint with Python objects in it, which can run code; for those you trust"
    add("--weights_only", choices=["true", "false"], default="true", help=objects)
    add(
        "--push",
        metavar="REPO",
        help="upload the folder to this repository of the Hugging Face Hub; a new one is private",
    )
    add("--public", action="store_true", help="make the new repository public, or upload to one that is")
    trust = "run code that comes with the run's model, where the run did; for models you trust"
    add("--trust_remote_code", action="store_true", help=trust)
    return parser


def check_folders(run: Path, out: Path) -> None:
    """Refuse a checkpoint in place of the run, and to write among other files."""
    if run.suffix == ".ckpt" and run.exists():
        raise UserError(
            f"{run} is a checkpoint. Give the folder of the run, and --checkpoint: lgrpo export "
            f"{run.parent.parent} {out} --checkpoint {run.name}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is not empty" if out.is_dir() else "is a file"
        raise UserError(f"{out} {what}, and nothing is overwritten. Name a folder that is not there yet.")


def export_checkpoint(options: argparse.Namespace, path: Path) -> str:
    """Build the run's policy, load the checkpoint at ``path`` into it, write the folder; the class that loads it."""
    from lgrpo_lightning.checkpoints.checkpoint_io import AtomicCheckpointIO
    from lgrpo_lightning.distributed.sharded_checkpoint import read_whole_checkpoint
    from lgrpo_lightning.monitoring.model_card import write_model_card
    from lgrpo_lightning.monitoring.recorded_run import RecordedRun
    from lgrpo_lightning.policy import Policy
    from lgrpo_lightning.policy.export import export, load_weights
    from lgrpo_lightning.policy.loading import load_tokenizer
    from lgrpo_lightning.policy.multimodal import choose_auto_class

    state: Mapping[str, Any]
    if path.is_dir():
        state = read_whole_checkpoint(path, only_weights=True)
    else:
        state = AtomicCheckpointIO().load_checkpoint(path, weights_only=options.weights_only == "true")
    config = read_policy_config(options.run, state)
    if config.trust_remote_code and not options.trust_remote_code:
        raise UserError(
            f"{show_path(options.run)} has code run that comes with the model {config.path}. If you trust its authors, "
            "pass --trust_remote_code."
        )
    policy = Policy(replace(config, quantization=None))  # an adapter is merged into the base as it is in the files
    load_weights(policy, state["state_dict"])
    export(policy, load_tokenizer(config), options.out, adapter=options.adapter, dtype=options.dtype)
    about = {
        "base": config.path,
        "checkpoint": path.name,
        "steps": state.get("global_step"),
        "adapter": options.adapter,
    }
    (options.out / CARD).write_text(write_model_card(RecordedRun(options.run, bare=True), **about), encoding="utf-8")
    return str(choose_auto_class(policy.model.config).__name__)


def read_policy_config(run: Path, checkpoint: Mapping[str, Any] | None = None) -> Any:
    """The ``PolicyConfig`` of a run, read from its ``config.yaml``; of a run in Python from its checkpoint."""
    from lgrpo_lightning.distributed.precision import choose_weights_type
    from lgrpo_lightning.policy.config import PolicyConfig

    if (run / CONFIG).is_file():
        written = read_config(run / CONFIG)
        config = PolicyConfig.from_options(written["model"]["policy"])
        return choose_weights_type(str((written.get("trainer") or {}).get("precision")), config)
    if options := ((checkpoint or {}).get("lgrpo") or {}).get("policy"):
        return PolicyConfig.from_options(options)
    raise NotFoundError(f"{run} has no {CONFIG}; RUN is the folder that trainer.default_root_dir named.")
