"""Callbacks: what a run shows, and what it leaves on disk."""

from lgrpo_lightning.callbacks.alarms import Alarms
from lgrpo_lightning.callbacks.best_checkpoint import BestCheckpoint
from lgrpo_lightning.callbacks.completion_table import CompletionTable
from lgrpo_lightning.callbacks.defaults import complete_trainer, list_missing_callbacks, make_default_callbacks
from lgrpo_lightning.callbacks.export_model import ExportModel
from lgrpo_lightning.callbacks.last_checkpoint import LastCheckpoint
from lgrpo_lightning.callbacks.log_completions import LogCompletions
from lgrpo_lightning.callbacks.prediction_writer import PredictionWriter
from lgrpo_lightning.callbacks.progress import RewardProgressBar
from lgrpo_lightning.callbacks.rank_watch import RankWatch
from lgrpo_lightning.callbacks.reward_plot import RewardPlot
from lgrpo_lightning.callbacks.rollout_callback import RolloutCallback, call_rollout_callbacks
from lgrpo_lightning.callbacks.rollout_checkpoint import RolloutCheckpoint
from lgrpo_lightning.callbacks.rollout_writer import RolloutWriter
from lgrpo_lightning.callbacks.run_summary import RunSummary

__all__ = [
    "Alarms",
    "BestCheckpoint",
    "CompletionTable",
    "ExportModel",
    "LastCheckpoint",
    "LogCompletions",
    "PredictionWriter",
    "RankWatch",
    "RewardPlot",
    "RewardProgressBar",
    "RolloutCallback",
    "RolloutCheckpoint",
    "RolloutWriter",
    "RunSummary",
    "call_rollout_callbacks",
    "complete_trainer",
    "list_missing_callbacks",
    "make_default_callbacks",
]
