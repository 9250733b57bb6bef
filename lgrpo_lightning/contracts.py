"""The contracts of the swappable components.

``Prompt ─Sampler→ Group ─StepSegmenter→ ProcessTree ─RewardModel→ Rewards ─AdvantageEstimator→ Credit ─PolicyLoss→``
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from lgrpo_lightning.environments.environment import Environment as Environment  # its place for everyone
from lgrpo_lightning.functional.losses import Normalizer
from lgrpo_lightning.functional.vocabulary import Vocabulary
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Credit, Group, LossInput, Progress, Prompt, Rewards, Sampling

Level = Literal["token", "sequence"]
"""What a policy loss has terms for."""

Reduce = Callable[[Tensor], Tensor]
"""Sum of a tensor over all ranks; the identity in one process."""


class RandomKey(NamedTuple):
    """Keys the sampling noise: the same key, prompt uid, member and position give the same draw."""

    seed: int
    phase: str
    counter: int


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A low-rank adapter (LoRA) apart from its model.

    Attributes:
        rank, alpha, rslora: Its update is scaled by alpha / rank, with ``rslora`` by alpha / sqrt(rank).
        targets: Last parts of the names of the modules it adapts.
        weights: (name in a peft file, full tensor) pairs; collective, in one order on all ranks.
    """

    rank: int
    alpha: int
    rslora: bool
    targets: tuple[str, ...]
    weights: Iterator[tuple[str, Tensor]]


class WeightSource(Protocol):
    """What a sampler may know of the policy: its weights, not its training."""

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every token id that ends a completion."""

    @property
    def pad_token_ids(self) -> tuple[int, ...]:
        """Token ids that pad, by the tokenizer or the model's configuration."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The token ids that may be drawn: those with a text."""

    @property
    def context_length(self) -> int:
        """Most tokens a prompt and its completion may have together."""

    @property
    def longest_sequence(self) -> int:
        """Most tokens that a prompt of this run's data and its completion have; no more than ``context_length``."""

    @property
    def temperature(self) -> float:
        """That of sampling: log-probs of completions are those at it."""

    @property
    def version(self) -> int:
        """Number of optimizer steps the weights have had."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, full tensor) pairs, an adapter added; collective, in one order on all ranks."""

    def base_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The same of the model without its adapter: they never change where there is one."""

    def stored(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The weights of one of these under the names of a checkpoint, which other engines read.

        They differ where transformers holds weights otherwise in memory, such as all experts of a layer in one tensor.
        """

    def adapter(self) -> Adapter | None:
        """The adapter by itself; None where all weights are trained."""

    def generation_model(self) -> AbstractContextManager[Any]:
        """A context that gives the Hugging Face causal LM, ready for no-grad forwards without collectives."""


class Sampler(ABC):
    """Draws a group of completions for each prompt."""

    is_policy: ClassVar[bool] = False
    """Whether it runs the policy's own weights and code, so that its log-probs need no importance correction."""

    takes_turns: ClassVar[bool] = False
    """Whether a completion holds turns of an environment, too."""

    apart: bool = False
    """Whether ``sample`` may run on another thread while the policy is trained; ``model.rollouts_ahead`` needs it. It
    draws from weights of its own then, those of the last ``sync``, and uses neither the policy nor other ranks."""

    def setup(self, source: WeightSource) -> None:  # noqa: B027
        """Called once before the first rollout, on every rank."""

    def sync(self, version: int) -> None:  # noqa: B027
        """Load the source's weights, which are now at ``version``. Collective; called before each rollout."""

    def ready(self, sampling: Sampling) -> None:  # noqa: B027
        """Called between ``sync`` and a ``sample`` on another thread: here is done what has to see the policy."""

    @abstractmethod
    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        """One group of ``group_size`` completions per prompt, in order.

        Noise is keyed by (random key, prompt uid, member, position), so that neither the batch nor the number
        of ranks changes a completion.
        """

    def release(self) -> None:  # noqa: B027
        """Called when nothing more is sampled before the next ``sync``: memory may be freed for training."""

    def teardown(self) -> None:  # noqa: B027
        """Called once at the end: release engines and connections."""


class StepSegmenter(ABC):
    """Divides the completions of a group into process steps."""

    @abstractmethod
    def segment(self, group: Group) -> ProcessTree:
        """The process tree of the group."""


class RewardModel(ABC):  # noqa: B024 - one of two methods is enough
    """Scores completions. Lives outside the module tree: it owns its device and is never trained or saved.

    Override ``score`` for one group, or ``score_batch`` to see all groups of a rollout batch at once
    (batched, asynchronous and remote scoring).
    """

    @property
    def name(self) -> str:
        """What its part of the reward is logged under."""
        return type(self).__name__

    columns: ClassVar[tuple[str, ...]] = ()
    """Data columns it requires; checked before the first step. May be set per instance."""

    def setup(self, source: WeightSource) -> None:  # noqa: B027
        """Called once before the first rollout, on every rank; ``source`` tells the tokenizer of the policy.

        Raises:
            ValueError: It does not go with this policy.
        """

    def check_row(self, row: Mapping[str, Any]) -> None:  # noqa: B027
        """Called with every data row before the first step: refuse one that cannot be judged.

        Raises:
            ValueError: With the reason; the row is named by the caller.
        """

    def start(self, progress: Progress) -> None:  # noqa: B027
        """Called before each rollout batch, validation, test and prediction is scored, with the place in the run."""

    def score(self, group: Group, tree: ProcessTree) -> Tensor | Rewards:
        """A ``[G]`` tensor of rewards, or ``Rewards``. NaN means "does not apply", which is not 0."""
        raise NotImplementedError(f"{type(self).__name__} defines neither score nor score_batch.")

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        """The rewards of every group of a rollout batch; by default ``score`` group by group."""
        return [as_rewards(self.score(g, t), self.name) for g, t in zip(groups, trees, strict=True)]

    def teardown(self) -> None:  # noqa: B027
        """Called once at the end: release processes and connections."""


class AdvantageEstimator(ABC):
    """The algorithm: says of every token what it is worth and how much it counts."""

    reads: ClassVar[tuple[str, ...]] = ("outcome",)
    """Which of a reward's ``outcome``, ``steps`` and ``tokens`` it looks at."""

    takes_penalties: ClassVar[bool] = True
    """Whether outcomes may be less by a penalty: False where they are compared with a threshold, or not looked at."""

    power: float = 0.0
    """p of the token weights 1/|λ(i, t)|^p that it gives, as ``tree.weights(p)``; 0: the tokens of a completion count
    alike. Losses with one term for a completion cannot weigh tokens and are refused beside p > 0."""

    @abstractmethod
    def estimate(self, rewards: Rewards, tree: ProcessTree) -> Credit:
        """The credit of one group."""

    def estimate_batch(
        self, rewards: Sequence[Rewards], trees: Sequence[ProcessTree], *, reduce: Reduce
    ) -> list[Credit]:
        """The credit of every group; override it for statistics over the whole batch (``reduce`` sums over ranks)."""
        return [self.estimate(r, t) for r, t in zip(rewards, trees, strict=True)]


class PolicyLoss(ABC):
    """The loss of every token, from log-probs and credit. It knows no layout, no rank and no other completion."""

    normalizer: Normalizer = "token"
    """What the sum over tokens is divided by."""

    level: Level = "token"
    """Whether each token has a term of its own, or all tokens of a completion share one, as with sequence ratios.

    At "sequence" an update gives ``terms`` the mean over a completion's trained tokens as the advantage of each.
    """

    corrects: ClassVar[bool] = False
    """Whether ``terms`` applies the importance correction, that of tokens, itself; else terms are multiplied by it."""

    @abstractmethod
    def terms(self, batch: LossInput) -> Tensor:
        """``[N, T]``, to be minimised; a row depends on that row alone. What stands off the mask is ignored."""

    def ratio(self, batch: LossInput) -> Tensor:
        """``[N, T]`` the importance ratio that the terms are made of; π/π_old of each token by default."""
        return batch.log_ratio.exp()

    def advantages(self, batch: LossInput) -> Tensor:
        """``[N, T]`` what tokens are worth to this loss: at the level "sequence" the mean over the completion's."""
        return batch.mean_advantages if self.level == "sequence" else batch.advantages

    def metrics(self, batch: LossInput) -> Mapping[str, Tensor]:
        """Name → ``[N, T]`` values whose mean over all trained tokens is logged; NaN does not count."""
        return {}


class PromptSource(ABC):
    """Where prompts come from: a file, a hub data set, a generator of tasks."""

    @abstractmethod
    def rows(self) -> Iterable[Mapping[str, Any]]:
        """The data rows; each has a ``prompt`` (a string or a list of messages) and any other columns.

        A list, a data set, or a generator or streaming data set that ends: it is read whole before the first step.
        """


def as_rewards(value: Tensor | Rewards, name: str) -> Rewards:
    """``value`` as ``Rewards`` whose one part, unless it names its own, is ``name``."""
    if isinstance(value, Rewards):
        return value
    outcome = torch.as_tensor(value, dtype=torch.float32)
    return Rewards(outcome=outcome, parts={name: outcome})


CONTRACTS: Mapping[str, type] = {
    "sampler": Sampler,
    "segmenter": StepSegmenter,
    "reward_model": RewardModel,
    "advantage_estimator": AdvantageEstimator,
    "loss": PolicyLoss,
    "environment": Environment,
    "prompt_source": PromptSource,
}
"""Kind of component → its contract."""
