"""Makes the recorded rollouts, and from them the golden trajectory, anew.

python -m tests.recorded.record            both files
python -m tests.recorded.record --golden   the trajectory alone, from the rollouts there are
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from lgrpo_lightning.rewards import RewardFunction
from lgrpo_lightning.types import Group, Rollout
from tests.recorded.components import FILE
from tests.recorded.run import Observer, Outcome, fit

GOLDEN = FILE.parent / "losses.json"
"""Loss and gradient norm of eight optimizer steps on the rollouts of ``FILE``: one process, fp32, padded rows."""


class Recorder(Observer):
    """Keeps every group with its rewards."""

    def __init__(self) -> None:
        super().__init__(Outcome())
        self.groups: dict[str, Any] = {}

    def on_rollout_end(self, trainer: Any, pl_module: Any, rollout: Rollout) -> None:
        for group, rewards in zip(rollout.groups, rollout.rewards, strict=True):
            self.groups[f"{rollout.index}/{group.prompt.uid}"] = {
                "completions": completions(group),
                "rewards": rewards.outcome.tolist(),
            }


def completions(group: Group) -> list[dict[str, Any]]:
    """The completions of a group as JSON takes them."""
    return [
        {
            "token_ids": list(r.token_ids),
            "logprobs": r.logprobs.tolist(),
            "text": r.text,
            "text_ends": list(r.text_ends),
            "finish_reason": r.finish_reason,
        }
        for r in group.completions
    ]


def record_rollouts(root: Path) -> None:
    """Draw them with the policy that is trained on them, hot and rewarded by length: no loss is near 0."""
    recorder = Recorder()
    reward = RewardFunction("tests.integration.rewards.length")
    fit(root, free=True, reward_model=reward, trainer={"callbacks": [recorder]})
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(group)}" for key, group in recorder.groups.items())
    FILE.write_text(f"{{\n{lines}\n}}\n")


def record_golden(root: Path) -> None:
    """Train on the recorded rollouts."""
    outcome = fit(root, policy={"layout": "padded"})
    GOLDEN.write_text(json.dumps({"loss": outcome.losses, "grad_norm": outcome.norms}, indent=1) + "\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        if "--golden" not in sys.argv:
            record_rollouts(Path(folder) / "rollouts")
        record_golden(Path(folder) / "golden")


if __name__ == "__main__":
    main()
