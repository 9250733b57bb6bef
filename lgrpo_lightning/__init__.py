"""Fine-tune language models with GRPO and λ-GRPO on PyTorch Lightning.

Names load on first use, so that importing the package stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lgrpo_lightning.contracts import (
        AdvantageEstimator,
        Environment,
        PolicyLoss,
        PromptSource,
        RewardModel,
        Sampler,
        StepSegmenter,
    )
    from lgrpo_lightning.datamodule import PromptDataModule
    from lgrpo_lightning.errors import UserError
    from lgrpo_lightning.functional.sampling import Sampling
    from lgrpo_lightning.module import GRPOModule
    from lgrpo_lightning.process_tree import ProcessTree
    from lgrpo_lightning.registry.hookspecs import hookimpl
    from lgrpo_lightning.types import Completion, Credit, Group, Prompt, Rewards

_HOME = {
    "AdvantageEstimator": "contracts",
    "Credit": "types",
    "Environment": "environments.environment",
    "GRPOModule": "module",
    "Group": "types",
    "PolicyLoss": "contracts",
    "ProcessTree": "process_tree",
    "Prompt": "types",
    "PromptDataModule": "datamodule",
    "PromptSource": "contracts",
    "RewardModel": "contracts",
    "Rewards": "types",
    "Completion": "types",
    "Sampler": "contracts",
    "Sampling": "functional.sampling",
    "StepSegmenter": "contracts",
    "UserError": "errors",
    "hookimpl": "registry.hookspecs",
}

__all__ = [
    "AdvantageEstimator",
    "Completion",
    "Credit",
    "Environment",
    "GRPOModule",
    "Group",
    "PolicyLoss",
    "ProcessTree",
    "Prompt",
    "PromptDataModule",
    "PromptSource",
    "RewardModel",
    "Rewards",
    "Sampler",
    "Sampling",
    "StepSegmenter",
    "UserError",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lgrpo_lightning' has no attribute {name!r}")
    return getattr(import_module(f"lgrpo_lightning.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
