"""Where prompts come from, and how they reach the training loop."""

from lgrpo_lightning.data.arithmetic import ArithmeticTasks
from lgrpo_lightning.data.binary_tree import BinaryTreeTask
from lgrpo_lightning.data.files import PromptFile

__all__ = ["ArithmeticTasks", "BinaryTreeTask", "PromptFile"]
