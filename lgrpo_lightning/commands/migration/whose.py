"""Whose configuration a file is, by its keys."""

from __future__ import annotations

from collections.abc import Iterable

from lgrpo_lightning.commands.migration.fields import DEFAULTS

OURS = {"seed_everything", "trainer", "model", "data", "ckpt_path"}
MARKS = {
    "verl": ({"actor_rollout_ref"},),
    "OpenRLHF": ({"actor", "rollout"}, {"actor", "algo"}, {"pretrain", "advantage_estimator"}),
    "axolotl": ({"base_model"},),
    "LLaMA-Factory": ({"finetuning_type"}, {"stage", "template"}),
    "ms-swift": ({"rlhf_type"}, {"train_type"}, {"tuner_type"}),
    "NeMo RL": ({"policy", "grpo"}, {"policy", "loss_fn"}),
    "AReaL": ({"allocation_mode"}, {"gconfig"}),
    "SkyRL": ({"generator", "trainer"},),
    "open-instruct": ({"dataset_mixer_list"},),
    "torchtune": ({"checkpointer", "tokenizer"},),
    "Accelerate": ({"compute_environment"}, {"distributed_type"}),
}
"""Library → keys at the top of its files; each set alone tells."""
WITH_A_PAGE = ("verl", "OpenRLHF")


def find_library(keys: Iterable[str]) -> str | None:
    """The library that a YAML file with these keys at its top is written for; None where no key tells.

    >>> find_library(["actor_rollout_ref", "trainer"]), find_library(["trainer", "seed"])
    ('verl', None)
    """
    names = {key.partition(".")[0] for key in keys}
    for library, marks in MARKS.items():
        if any(mark <= names for mark in marks):
            return library
    return "TRL" if names & DEFAULTS.keys() and not names & OURS else None


def advise(library: str, file: str) -> str:
    """What to do with a file of a library."""
    if library == "TRL":
        return f"`lgrpo import-trl {file}` prints the configuration that does the same."
    if library in WITH_A_PAGE:
        return f"docs/from-verl.md has each option of {library} and what it is here."
    return (
        f"Nothing of {library} is read. Start from configs/quickstart.yaml; docs/from-trl.md and docs/from-verl.md say "
        "what usual options are here."
    )
