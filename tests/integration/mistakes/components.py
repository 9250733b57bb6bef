"""Components that are not there, or are built wrongly."""

from __future__ import annotations

from tests.integration.mistakes.case import BadInput, component

PARTS = '''"""Components with one mistake each."""
import torch
from lgrpo_lightning import AdvantageEstimator, StepSegmenter, UserError
from lgrpo_lightning.types import Credit
class Abstract(AdvantageEstimator):
    pass
class Halved(AdvantageEstimator):
    def __init__(self, power: float = 1.0):
        if power < 0:
            raise UserError(f"power is {power}; it must be at least 0.")
    def estimate(self, rewards, tree):
        return Credit(advantages=torch.ones(4, 1), weights=torch.ones(4, 1))
class Listed(StepSegmenter):
    def segment(self, group):
        return [1]
'''

COMPONENTS = {
    "no reward model": BadInput(
        says=("model.reward_model is not set", "Installed: BinaryTreeReward, EnvironmentReward"),
        did="no `model.reward_model` at all",
        config={"model.reward_model": None},
    ),
    "sampler": BadInput(
        says=("run.yaml, line", "model.sampler", "Did you mean 'TransformersSampler'"),
        did="`model.sampler: TransformerSampler`",
        config={"model.sampler": "TransformerSampler"},
    ),
    "segmenter": BadInput(
        says=("run.yaml, line", "model.segmenter", "Installed: DelimiterSegmenter, EntropySegmenter"),
        did="`model.segmenter: Paragraphs`",
        config={"model.segmenter": "Paragraphs"},
    ),
    "reward model": BadInput(
        says=("run.yaml, line", "model.reward_model", "Did you mean 'ExactMatch'"),
        did="`model.reward_model: ExactMach`",
        config={"model.reward_model": "ExactMach"},
    ),
    "estimator": BadInput(
        says=("command line", "model.advantage_estimator", "Did you mean 'LambdaGRPO'"),
        did="`--model.advantage_estimator=LamdaGRPO`",
        flags=("--model.advantage_estimator=LamdaGRPO",),
    ),
    "estimator, class_path": BadInput(
        says=("run.yaml, line", "'PPO'", "Installed: BlendedGRPO, Distillation"),
        did="`model.advantage_estimator: {class_path: PPO}`",
        config={"model.advantage_estimator": component("PPO")},
    ),
    "prompt source": BadInput(
        says=("run.yaml, line", "data.train", "Did you mean 'ArithmeticTasks'"),
        did="`data.train: {class_path: ArithmeticTask}`",
        config={"data.train": component("ArithmeticTask")},
    ),
    "prompt source by name": BadInput(
        says=("data.train", "Did you mean 'ArithmeticTasks'"),
        did="`data.train: ArithmeticTask`",
        config={"data.train": "ArithmeticTask"},
    ),
    "component of another kind": BadInput(
        says=("model.reward_model", "is an advantage_estimator, not a reward_model", "ExactMatch"),
        did="`model.reward_model: LambdaGRPO`",
        config={"model.reward_model": "LambdaGRPO"},
    ),
    "second of several": BadInput(
        says=("run.yaml, line", "'FormatMach'", "Did you mean 'FormatMatch'"),
        did="`model.reward_model: [ExactMatch, FormatMach]`",
        config={"model.reward_model": ["ExactMatch", "FormatMach"]},
    ),
    "class path that leads nowhere": BadInput(
        says=("run.yaml, line", "model.reward_model", "'my_rewards.Judge'", "has no attribute 'Judge'"),
        did="`model.reward_model: my_rewards.Judge`",
        config={"model.reward_model": "my_rewards.Judge"},
    ),
    "required argument": BadInput(
        says=("run.yaml, line", "FormatMatch (model.reward_model) needs 'pattern'"),
        did="`model.reward_model: FormatMatch` (without its `pattern`)",
        config={"model.reward_model": "FormatMatch"},
    ),
    "abstract class": BadInput(
        says=("command line", "'my_parts.Abstract' is abstract", "lacks estimate"),
        did="`--model.advantage_estimator=my_parts.Abstract`, a class without its method",
        flags=("--model.advantage_estimator=my_parts.Abstract",),
    ),
    "refused by its class": BadInput(
        says=("power is -1.0; it must be at least 0.",),
        did="`power: -1` of a class of your own, which refuses it",
        config={"model.advantage_estimator": component("my_parts.Halved", power=-1)},
    ),
    "credit of a wrong shape": BadInput(
        says=("Advantage estimator 'Halved'", "shape [4, 1]; it must be [4, "),
        did="an advantage estimator that returns one number a completion",
        rollouts=True,
        config={"model.advantage_estimator": component("my_parts.Halved")},
    ),
    "no tree": BadInput(
        says=("Segmenter 'Listed'", "got a list; segment returns a ProcessTree"),
        did="a segmenter that returns no tree",
        rollouts=True,
        config={"model.segmenter": component("my_parts.Listed")},
    ),
    "optimizer": BadInput(
        says=("there is no class 'torch.optim.Adamm'", "Did you mean 'torch.optim.Adam'"),
        did="`--model.optimizer=torch.optim.Adamm`",
        flags=("--model.optimizer=torch.optim.Adamm",),
    ),
}
