"""For plug-in authors: groups without a model, and checks that a component fulfils its contract."""

from lgrpo_lightning.testing.contracts import (
    check_component,
    check_estimator,
    check_prompt_source,
    check_reward_model,
    check_sampler,
    check_segmenter,
)
from lgrpo_lightning.testing.environments import check_environment
from lgrpo_lightning.testing.losses import check_loss
from lgrpo_lightning.testing.toys import EOS, toy_group, toy_loss_input, toy_tree

__all__ = [
    "EOS",
    "check_component",
    "check_environment",
    "check_estimator",
    "check_loss",
    "check_prompt_source",
    "check_reward_model",
    "check_sampler",
    "check_segmenter",
    "toy_group",
    "toy_loss_input",
    "toy_tree",
]
