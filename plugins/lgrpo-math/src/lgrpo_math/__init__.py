"""Rewards for mathematical answers, checked by math-verify in worker processes."""

from typing import TYPE_CHECKING, Any

from lgrpo_lightning import hookimpl

if TYPE_CHECKING:
    from lgrpo_math.math_answer import MathAnswer

__all__ = ["MathAnswer"]


@hookimpl
def lgrpo_components() -> list[type]:
    """Offer the reward by its class name."""
    from lgrpo_math.math_answer import MathAnswer

    return [MathAnswer]


def __getattr__(name: str) -> Any:
    if name != "MathAnswer":
        raise AttributeError(f"module 'lgrpo_math' has no attribute {name!r}")
    from lgrpo_math.math_answer import MathAnswer

    return MathAnswer
