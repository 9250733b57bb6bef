"""Keeps messages off the terminal that tell the user of a run nothing."""

from __future__ import annotations

import logging
import sys
import warnings

ADVERTS = (
    "💡 Tip",
    "GPU available",
    "TPU available",
    "HPU available",
    "`Trainer.fit` stopped",
    "Seed set to",
    "While redistributing from",  # tensor parallelism gathers over two dimensions, one after the other
)
NOISE = (
    r".*treespec, LeafSpec.*",
    r".*does not have many workers.*",
    r".*You are using `torch.load` with `weights_only.*",
    r".*exists and is not empty.*",
    r".*of metric MeanMetric was called before.*",  # a validation to which no reward applied
    r"LightningCLI.s args parameter.*",
    r".*there is no last checkpoint available.*",  # LastCheckpoint says so itself
    r".*sync_dist=True.*when logging on epoch level.*",  # vLLM leaves torch.distributed initialised
)


def quieten() -> None:
    """Drop Lightning's adverts and known-harmless warnings; no progress bars of transformers in a pipe."""
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
        "torch.distributed.tensor._redistribute",
    ):
        logging.getLogger(name).addFilter(lambda record: not record.getMessage().startswith(ADVERTS))
    for pattern in NOISE:
        warnings.filterwarnings("ignore", message=pattern)
    if not sys.stderr.isatty():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
