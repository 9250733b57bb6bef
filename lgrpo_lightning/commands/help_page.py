"""The first page of the help of a run's commands, and the components that can stand under a key."""

from __future__ import annotations

from lgrpo_lightning.commands.explanations import KINDS
from lgrpo_lightning.registry import lookup

PAGE = """lgrpo {command} --config FILE [--KEY=VALUE ...]

  lgrpo {command} --config configs/quickstart.yaml
  ... --trainer.max_steps=50 --model.sampling.temperature=0.7   any key below, over the file
  ... --model.advantage_estimator=GRPO                          a component by its name
  ... --print_config                                            the whole configuration, and nothing is run

  --model.advantage_estimator.help         the components that can stand there (every key of a component has this)
  --model.advantage_estimator.help GRPO    the options of one

Keys that are set most often:
  data.train, data.prompts_per_step        prompts, and how many of them a rollout has
  model.policy.path                        the model
  model.group_size, model.sampling         completions of a prompt, and how they are drawn
  model.reward_model                       what they are worth
  model.advantage_estimator                the algorithm
  model.optimizer.lr, model.updates        the optimizer steps
  trainer.max_steps                        how many of them
  trainer.default_root_dir                 the folder of the run

All keys, those of the trainer first:"""


def write_usage(command: str) -> str:
    """The page of ``lgrpo fit``, ``validate``, ``test`` or ``predict``."""
    return PAGE.format(command=command)


def list_components(word: str) -> bool:
    """Whether ``word`` asks what can stand under the key of a component, as ``--model.loss.help``; printed then."""
    key = word.removeprefix("--").removesuffix(".help")
    if not word.endswith(".help") or key not in KINDS:
        return False
    for component in sorted(lookup.components().values(), key=lambda c: c.name):
        if component.kind == KINDS[key]:
            print(f"  {component.name:<26} {component.summary}")
    print(f"--{key}.help NAME shows the options of one.")
    return True
