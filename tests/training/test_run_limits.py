"""How many rollouts and optimizer steps a run has."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from lgrpo_lightning.training import Updates
from lgrpo_lightning.training.run_limits import count_planned_steps, plan_rollouts, stop_after_last
from lgrpo_lightning.types import Progress, Prompt

PROMPTS = [Prompt(uid=str(n), text="?", token_ids=(1,)) for n in range(2)]


class Data:
    """The batches after the one that is trained on, one an epoch."""

    def preview_prompts(self, count: int) -> list[tuple[int, list[Prompt]]]:
        return [(n + 1, PROMPTS) for n in range(count)]


def trainer(max_steps: int, global_step: int = 0) -> Any:
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(max_steps=max_steps))
    return SimpleNamespace(
        max_steps=max_steps, global_step=global_step, current_epoch=5, fit_loop=loop, datamodule=Data()
    )


TWO = Updates(mini_batches=2)
UNSURE = Updates(mini_batches=2, drop_equal_groups=True)


@pytest.mark.parametrize(
    ("max_steps", "max_rollouts", "updates", "planned"),
    [
        (7, -1, TWO, 6), (7, -1, UNSURE, 7), (-1, -1, TWO, None), (-1, 3, TWO, 6), (5, 3, TWO, 4), (9, 3, TWO, 6),
    ],
)  # fmt: skip
def test_planned_steps(max_steps: int, max_rollouts: int, updates: Updates, planned: int | None) -> None:
    assert count_planned_steps(trainer(max_steps), replace(updates, max_rollouts=max_rollouts)) == planned


@pytest.mark.parametrize(
    ("max_steps", "max_rollouts", "step", "done", "stops"),
    [
        (7, -1, 4, 2, False), (7, -1, 5, 2, False), (7, -1, 6, 3, True), (-1, -1, 99, 50, False),
        (-1, 3, 4, 2, False), (-1, 3, 6, 3, True), (-1, 1, 2, 1, True), (1, -1, 0, 0, True),
    ],
)  # fmt: skip
def test_a_run_stops_after_its_last_whole_rollout(
    max_steps: int, max_rollouts: int, step: int, done: int, stops: bool
) -> None:
    running = trainer(max_steps, step)
    stop_after_last(running, replace(TWO, max_rollouts=max_rollouts), done)
    assert running.fit_loop.epoch_loop.max_steps == (step if stops else max_steps)


@pytest.mark.parametrize(
    ("max_steps", "max_rollouts", "step", "updates", "ahead", "drawn"),
    [
        (-1, -1, 2, TWO, 3, 4), (-1, -1, 2, TWO, 0, 1), (-1, 3, 2, TWO, 3, 2), (-1, 2, 2, TWO, 3, 1),
        (8, -1, 2, TWO, 3, 3), (7, -1, 2, TWO, 3, 2), (8, -1, 2, UNSURE, 3, 4), (4, 9, 2, TWO, 3, 1),
        (3, -1, 2, TWO, 3, 1), (1, -1, 0, TWO, 3, 1),
    ],
)  # fmt: skip
def test_no_rollout_is_drawn_that_is_not_reached(
    max_steps: int, max_rollouts: int, step: int, updates: Updates, ahead: int, drawn: int
) -> None:
    progress = Progress(rollout=1, global_step=step, epoch=5, max_steps=max_steps, max_rollouts=max_rollouts)
    updates = replace(updates, max_rollouts=max_rollouts, rollouts_ahead=ahead)
    requests = plan_rollouts(trainer(max_steps, step), updates, PROMPTS, progress)
    assert [(r.progress.rollout, r.progress.epoch) for r in requests] == [(1 + n, 5 + n) for n in range(drawn)]
    assert all(request.prompts == tuple(PROMPTS) for request in requests)
