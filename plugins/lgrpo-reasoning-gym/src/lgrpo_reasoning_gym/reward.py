"""reasoning-gym's own scorers as a reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from lgrpo_lightning import Group, ProcessTree, RewardModel, Rewards
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.functional import reaches
from lgrpo_lightning.rewards.opening import compile_extract, complete_tags, find_last


class ReasoningGymReward(RewardModel):
    """What the data set's own scorer gives, from 0 to 1.

    Args:
        extract: Where the answer of a completion stands: a regular expression with a group, whose last match counts;
            null for the whole completion without white space around it.
        missing: Reward of a completion in which no answer is found.

    Raises:
        ValueError: ``extract`` is no regular expression with a group.
    """

    columns = ("entry",)

    def __init__(self, extract: str | None = r"<answer>(.*?)</answer>", missing: float = 0.0) -> None:
        self.extract, self.missing = extract, missing
        possible = "are null and a regular expression with a group around the answer, such as '#### (.*)'"
        self._pattern = None if extract is None else compile_extract("ReasoningGymReward", extract, possible)

    def check_row(self, row: Mapping[str, Any]) -> None:
        self._scorer(row.get("entry"))

    def score(self, group: Group, tree: ProcessTree) -> Rewards:
        """The rewards; as metrics the shares of completions without an answer and with full reward."""
        entry = group.prompt.columns["entry"]
        scorer = self._scorer(entry)
        found = [self._answer(text) for text in complete_tags(group)]
        paid = [self.missing if answer is None else self._scored(scorer, answer, entry) for answer in found]
        outcome = torch.tensor(paid, dtype=torch.float32)
        metrics = {
            f"rewards/{self.name}/no_answer": found.count(None) / len(found),
            f"rewards/{self.name}/right": int(reaches(outcome, 1.0).sum()) / len(found),
        }
        return Rewards(outcome=outcome, parts={self.name: outcome}, metrics=metrics)

    def _answer(self, text: str) -> str | None:
        if self._pattern is None:
            return text.strip()
        found = find_last(self._pattern, text)
        return None if found is None else found.strip()

    def _scorer(self, entry: Any) -> Any:
        from reasoning_gym import get_score_answer_fn

        try:
            return get_score_answer_fn(entry["metadata"]["source_dataset"])
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(
                "ReasoningGymReward: the column 'entry' is no task of reasoning-gym; take data from ReasoningGymTasks."
            ) from error

    @staticmethod
    def _scored(scorer: Any, answer: str, entry: Mapping[str, Any]) -> float:
        """What the scorer says; one that fails at an answer gives nothing for it: models write anything."""
        try:
            value = float(scorer(answer, entry))
        except Exception:
            return 0.0
        return value if math.isfinite(value) else 0.0
