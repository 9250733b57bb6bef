"""A few completions on the terminal."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lgrpo_lightning.callbacks.rollout_callback import RolloutCallback
from lgrpo_lightning.distributed.terminal import is_on_terminal, say, show
from lgrpo_lightning.errors import require
from lgrpo_lightning.monitoring.visible import shorten
from lgrpo_lightning.types import Rollout


class CompletionTable(RolloutCallback):
    """Shows a few completions, from the best to the worst reward, every ``every_n_rollouts``.

    On a terminal it is a table and long texts lose their middle; in a pipe it is one whole line per
    completion, line breaks written as ``\\n``.

    Args:
        every_n_rollouts: How often, in rollouts; 0 never.
        count: How many completions, spread evenly over the rewards of the rollout.
    """

    def __init__(self, every_n_rollouts: int = 10, count: int = 4) -> None:
        never = "at least 0 (0 never shows one)"
        require(
            "CompletionTable: ",
            locals(),
            (every_n_rollouts >= 0, "every_n_rollouts", never),
            (count >= 1, "count", "at least 1"),
        )
        self.every_n_rollouts, self.count = every_n_rollouts, count

    def on_rollout_end(self, trainer: Trainer, pl_module: LightningModule, rollout: Rollout) -> None:
        if not self.every_n_rollouts or rollout.index % self.every_n_rollouts or not trainer.is_global_zero:
            return
        from lgrpo_lightning.rollouts.rollout_rows import build_rows, select_over_rewards

        rows = select_over_rewards(list(build_rows(rollout)), self.count)
        if is_on_terminal():
            show(trainer, _draw_table(rollout.index, rows))
        else:
            say(trainer, "\n".join(_write_line(row) for row in rows))


def _describe_tree(row: dict[str, Any]) -> str:
    return f"{row['set_size_mean']:.2f} ({row['shared_tokens']}/{row['length']} shared)"


def _write_line(row: dict[str, Any]) -> str:
    prompt, completion = (row[key].replace("\r", "\\r").replace("\n", "\\n") for key in ("prompt", "completion"))
    return (
        f"completion  rollout {row['rollout']}  member {row['member']}  reward {row['reward']:.3g}  "
        f"advantage {row['advantage']:+.3g}  "
        f"|λ| {_describe_tree(row)}  prompt: {prompt}  completion: {completion}"
    )


def _draw_table(index: int, rows: list[dict[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Rollout {index + 1}", title_justify="left", box=box.SIMPLE_HEAD, expand=True, show_lines=True)
    for name, ratio in (("prompt", 3), ("completion", 5)):
        table.add_column(name, ratio=ratio, overflow="fold")
    for name in ("reward", "advantage", "|λ|"):
        table.add_column(name, justify="right", no_wrap=name != "|λ|")
    for row in rows:
        texts = [Text(shorten(row[key].strip("\n"), 400)) for key in ("prompt", "completion")]
        table.add_row(*texts, f"{row['reward']:.3g}", f"{row['advantage']:+.3g}", _describe_tree(row))
    return table
