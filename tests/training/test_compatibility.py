"""What does not work with rollouts ahead is refused with its cause."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from lgrpo_lightning import PromptDataModule, Sampling
from lgrpo_lightning.contracts import RandomKey, Sampler
from lgrpo_lightning.rewards import TeacherLogprobs
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.training import Updates
from lgrpo_lightning.training.compatibility import check_ahead, check_ahead_in_run
from lgrpo_lightning.types import Group, Prompt
from tests.samplers.apart import ApartSampler


class Plain(Sampler):
    """Says nothing of where it draws."""

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        return []


class Around(Plain):
    """Draws with another sampler."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.apart = sampler.apart


class Counter:
    """Has a state in checkpoints."""

    def state_dict(self) -> dict[str, Any]:
        return {}


AHEAD = Updates(rollouts_ahead=1)
GOOD: dict[str, Any] = {"sampler": ApartSampler()}


@pytest.mark.parametrize(
    ("components", "more", "says"),
    [
        ({"sampler": Plain()}, {}, "but Plain does not say that it can draw"),
        ({"sampler": TransformersSampler()}, {}, "TransformersSampler draws with the policy's own model"),
        ({"sampler": Around(Plain())}, {}, "Around draws with Plain does not say"),
        (GOOD, {"sampling": Sampling(top_p=0.9)}, "sampling.top_p, top_k or min_p truncate"),
        (GOOD | {"reward_model/0": TeacherLogprobs(context="a")}, {}, "TeacherLogprobs scores with the run's own"),
        (GOOD, {"updates": Updates(rollouts_ahead=1, refill_rounds=1)}, "updates.refill_rounds draws further"),
        ({**GOOD, "segmenter": Counter()}, {}, "segmenter Counter keeps a state"),
        ({**GOOD, "reward_model/0": Counter()}, {}, "reward_model Counter keeps a state"),
        ({**GOOD, "advantage_estimator": Counter()}, {}, None),
        ({"sampler": Around(ApartSampler())}, {}, None),
        ({"sampler": Plain()}, {"updates": Updates()}, None),
    ],
)  # fmt: skip
def test_components_and_options(components: dict[str, Any], more: dict[str, Any], says: str | None) -> None:
    arguments = {"updates": AHEAD, "sampling": Sampling(), **more, "components": components}
    if says is None:
        check_ahead(**arguments)
    else:
        with pytest.raises(ValueError, match=says):
            check_ahead(**arguments)


def test_a_data_module_has_to_say_what_comes() -> None:
    def running(**data: Any) -> Any:
        return SimpleNamespace(strategy=None, datamodule=SimpleNamespace(**data))

    check_ahead_in_run(1, SimpleNamespace(strategy=None, datamodule=PromptDataModule(train="rows.jsonl")))
    check_ahead_in_run(0, running(curriculum=1))
    with pytest.raises(ValueError, match=r"data\.curriculum draws the prompts"):
        check_ahead_in_run(1, running(curriculum=1, preview_prompts=len))
    with pytest.raises(ValueError, match="has no preview_prompts"):
        check_ahead_in_run(1, running())
