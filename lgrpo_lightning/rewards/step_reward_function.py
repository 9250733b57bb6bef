"""A function that scores process steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards.reward_function import RewardFunction
from lgrpo_lightning.rewards.step_call import STEP_ARGUMENTS, StepCall
from lgrpo_lightning.types import Group, Rewards


class StepRewardFunction(RewardFunction):
    """Calls a function with every process step of a rollout, a step that several completions share once.

    The function gets keyword arguments, each list with one entry per step: ``steps`` (the text of the step),
    ``prefixes`` (the completion's text before it), ``prompts`` (strings, or for chats lists of messages), one list for
    each data column, and ``trainer_state`` and ``log_metric(name, value)``. It returns a list of numbers; None means
    "does not apply". It may be ``async``. It is called once per rollout. What a step is, the segmenter says:
    ``DelimiterSegmenter`` makes it a line.

    The rewards are ``Rewards.steps``, for ``ProcessGRPO`` and ``BlendedGRPO``; the outcome does not apply.

    Args:
        function: Import path of the function, such as ``my_rewards.right_line`` (also from the working directory), or
            the function itself.
        name: What its rewards are logged under; the function's name by default.
        kwargs: Further keyword arguments for the function, the same at every call.
        timeout: Seconds that an ``async`` function, or one on a ``thread``, may take for one rollout.
        thread: Run a function that is not ``async`` on a thread, so that ``timeout`` holds for it.
        on_error: What a call leads to that fails: "stop" ends the run, "none" makes its steps "does not apply".
        max_errors_in_a_row: With "none", so many calls that fail one after the other end the run.

    Raises:
        ValueError: The function cannot take these arguments.

    >>> from lgrpo_lightning.testing import toy_group
    >>> from lgrpo_lightning.segmenters import DelimiterSegmenter
    >>> def long_lines(steps, prefixes, **kwargs):
    ...     return [float(len(step.strip()) > 1) for step in steps]
    >>> group = toy_group(["aa\\nb", "aa\\ncc"])
    >>> StepRewardFunction(long_lines).score_batch([group], [DelimiterSegmenter().segment(group)])[0].steps.tolist()
    [1.0, 0.0, 1.0]
    """

    passed: ClassVar[tuple[str, ...]] = STEP_ARGUMENTS

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        """Call the function once for all steps and divide its answer into groups."""
        if not groups:
            return []
        return self.answered(StepCall(name=self.name, groups=tuple(groups), trees=tuple(trees)))
