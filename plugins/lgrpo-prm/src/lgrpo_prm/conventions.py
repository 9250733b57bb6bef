"""How process reward models are fed and read: a separator after each step, the step's score at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One way.

    Attributes:
        separator: The token behind each step, where its score is read.
        between: What stands between a separator and the next step.
        before: What stands between a step's text and its separator.
        good, bad: Of a causal language model: the tokens whose probabilities are compared; empty for a token
            classifier, whose last label is the good one.
        system: A system message, for models with a chat template; empty: the prompt is plain text.
        chat: Whether prompt and steps go through the chat template.
    """

    separator: str
    between: str = ""
    before: str = ""
    good: str = ""
    bad: str = ""
    system: str = ""
    chat: bool = False

    @property
    def causal(self) -> bool:
        """Whether the model is a causal language model."""
        return bool(self.good)

    def text(self, tokenizer: Any, prompt: str, steps: Sequence[str]) -> str:
        """The text that scores ``steps``; a separator that a step's text has is taken out."""
        cleaned = [step.replace(self.separator, "").strip() for step in steps]
        answer = self.between.join(f"{step}{self.before}{self.separator}" for step in cleaned)
        if not self.chat or not getattr(tokenizer, "chat_template", None):
            return f"{prompt.replace(self.separator, '')} {answer}"
        messages = [
            *([{"role": "system", "content": self.system}] if self.system else []),
            {"role": "user", "content": prompt.replace(self.separator, "")},
            {"role": "assistant", "content": answer},
        ]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False))


CONVENTIONS: Mapping[str, Convention] = {
    "math-shepherd": Convention(separator="ки", before=" ", between="\n", good="+", bad="-"),
    "qwen2.5-math-prm": Convention(
        separator="<extra_0>",
        chat=True,
        system="Please reason step by step, and put your final answer within \\boxed{}.",
    ),
    "token-classification": Convention(separator="\n"),
}
"""Name → convention: peiyi9979/math-shepherd-mistral-7b-prm, Qwen/Qwen2.5-Math-PRM-7B, and TRL's former PRMTrainer."""
