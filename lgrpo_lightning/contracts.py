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
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.functional.vocabulary import Vocabulary
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Credit, Group, LossInput, Progress, Prompt, Rewards

Level = Literal["token", "sequence"]
"""Whether a policy loss has one term per token or one per completion."""

ModelName = Literal["policy", "reference"]
"""The trained model, or the one before training, which ``objective.reference_sync_steps`` may update."""

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks; the identity in one process."""


class RandomKey(NamedTuple):
    """Key of the sampling noise: the same key, prompt uid, member and position give the same random numbers.

    Attributes:
        seed: Seed of the run.
        phase: What the completions are for: "train", "validation", "greedy" (validation, too) or "predict".
        counter: Number of the rollout in training; 0 in other phases.

    >>> RandomKey(seed=0, phase="train", counter=7).counter
    7
    """

    seed: int
    phase: str
    counter: int


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A low-rank adapter (LoRA) without its model.

    Attributes:
        rank: Rank r of the low-rank matrices.
        alpha: The product of the matrices is multiplied by alpha / rank.
        rslora: If True, it is multiplied by alpha / sqrt(rank) instead.
        targets: Last parts of the names of the modules it adapts.
        weights: (name in a peft file, full tensor) pairs; collective, in one order on all ranks.

    >>> adapter = Adapter(rank=8, alpha=16, rslora=False, targets=("q_proj",), weights=iter([]))
    >>> adapter.alpha / adapter.rank
    2.0
    """

    rank: int
    alpha: int
    rslora: bool
    targets: tuple[str, ...]
    weights: Iterator[tuple[str, Tensor]]


class Scorer(Protocol):
    """A model that scores completions and is not trained by that.

    >>> def score(self, group, tree):  # of a reward model; its setup sets self.model = source.make_teacher("policy")
    ...     prompts = [group.prompt.token_ids] * len(group)
    ...     logprobs = self.model.compute_logprobs(prompts, group.sequences, temperature=1.0)
    ...     return torch.stack([row.mean() for row in logprobs])
    """

    def compute_logprobs(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, temperature: float
    ) -> list[Tensor]:
        """``[T]`` fp32 log-probs of each completion's tokens after its prompt, on the CPU. Collective."""


class WeightSource(Protocol):
    """The policy as samplers and rewards get it, in ``setup``: its weights, but not its training.

    >>> def setup(self, source):  # of a sampler
    ...     self.tokenizer, self.ends = source.tokenizer, source.eos_token_ids
    ...     self.names = [name for name, tensor in source.weights()]
    """

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every token id that ends a completion."""

    @property
    def pad_token_ids(self) -> tuple[int, ...]:
        """Padding token ids of the tokenizer and the model's configuration."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The token ids that may be sampled: those that have a text."""

    @property
    def processor(self) -> Any:
        """Reads prompts with images: a ``PromptProcessor``."""

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of a prompt plus its completion."""

    @property
    def longest_sequence(self) -> int:
        """Maximum number of tokens of a prompt in this run plus its completion; at most ``context_length``."""

    @property
    def temperature(self) -> float:
        """The sampling temperature, which the log-probs of completions use, too."""

    @property
    def version(self) -> int:
        """Number of optimizer steps of the current weights."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, full tensor) pairs with a merged adapter; collective, in one order on all ranks."""

    def base_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights of the model without its adapter. If there is an adapter, they never change."""

    def stored(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """These weights under the names of a checkpoint, which other engines read.

        The names differ where transformers has another form in memory, such as all experts of a layer in one tensor.
        """

    def adapter(self) -> Adapter | None:
        """The adapter without its model; None if all weights are trained."""

    def generation_model(self) -> AbstractContextManager[Any]:
        """A context with the Hugging Face causal LM, ready for no-grad forward passes without collectives."""

    def make_teacher(self, name: ModelName) -> Scorer:
        """A model of the run, ready to score completions after other prompts than their own."""


class Sampler(ABC):
    """Samples a group of completions for each prompt."""

    is_policy: ClassVar[bool] = False
    """Whether it uses the policy's own weights and code, so that its log-probs need no importance correction."""

    takes_turns: ClassVar[bool] = False
    """Whether completions contain turns of an environment."""

    takes_images: bool = False
    """Whether it reads ``Prompt.images``. Data with images beside a sampler without is refused."""

    apart: bool = False
    """Whether ``sample`` may run on another thread while the policy is trained, as ``updates.rollouts_ahead`` needs.
    It then samples from its own copy of the weights, loaded by ``sync``, and uses neither policy nor other ranks."""

    def setup(self, source: WeightSource) -> None:  # noqa: B027
        """Called once before the first rollout, on every rank."""

    def sync(self, version: int) -> None:  # noqa: B027
        """Load the source's weights, which are now at ``version``. Collective; called before each rollout."""

    def ready(self, sampling: Sampling) -> None:  # noqa: B027
        """Called between ``sync`` and a ``sample`` on another thread, for work that needs the policy."""

    @abstractmethod
    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        """One group of ``group_size`` completions per prompt, in order.

        Noise depends only on (random key, prompt uid, member, position), so neither the batch nor the number of
        ranks changes a completion.
        """

    def release(self) -> None:  # noqa: B027
        """Called when nothing more is sampled before the next ``sync``; may free memory for training."""

    def teardown(self) -> None:  # noqa: B027
        """Called once at the end: release engines and connections."""


class StepSegmenter(ABC):
    """Splits the completions of a group into process steps."""

    @abstractmethod
    def segment(self, group: Group) -> ProcessTree:
        """The process tree of the group."""


class RewardModel(ABC):  # noqa: B024 - one of two methods is enough
    """Scores completions. It is not part of the module tree: it owns its device and is never trained or saved.

    Override ``score`` for one group, or ``score_batch`` to get all groups of a rollout at once (batched,
    asynchronous and remote scoring).
    """

    @property
    def name(self) -> str:
        """The name of its part of the reward in the logs."""
        return type(self).__name__

    columns: ClassVar[tuple[str, ...]] = ()
    """Data columns it requires; checked before the first step. May be set per instance."""

    contexts: ClassVar[tuple[str, ...]] = ()
    """Templates of prompts with more context, such as "{prompt} {solution}": ``Prompt.contexts`` has the token ids of
    each. May be set per instance."""

    scores_with: ClassVar[ModelName | None] = None
    """Model of the run that it scores with (``WeightSource.make_teacher``); "reference" has the run keep one. May be
    set per instance."""

    def setup(self, source: WeightSource) -> None:  # noqa: B027
        """Called once before the first rollout, on every rank; ``source`` provides the policy's tokenizer.

        Raises:
            ValueError: It does not work with this policy.
        """

    def check_row(self, row: Mapping[str, Any]) -> None:  # noqa: B027
        """Called with every data row before the first step, to refuse rows that cannot be scored.

        Raises:
            ValueError: With the reason; the caller names the row.
        """

    def start(self, progress: Progress) -> None:  # noqa: B027
        """Called before a rollout, validation, test or prediction is scored, with the position in the run."""

    def score(self, group: Group, tree: ProcessTree) -> Tensor | Rewards:
        """A ``[G]`` tensor of rewards, or ``Rewards``. NaN means "does not apply" and differs from 0."""
        raise NotImplementedError(f"{type(self).__name__} defines neither score nor score_batch.")

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        """The rewards of every group of a rollout; by default calls ``score`` for each group."""
        return [as_rewards(self.score(g, t), self.name) for g, t in zip(groups, trees, strict=True)]

    def teardown(self) -> None:  # noqa: B027
        """Called once at the end: release processes and connections."""


class AdvantageEstimator(ABC):
    """The algorithm: gives each token an advantage and a weight."""

    reads: ClassVar[tuple[str, ...]] = ("outcome",)
    """Which of a reward's ``outcome``, ``steps`` and ``tokens`` it uses."""

    takes_penalties: ClassVar[bool] = True
    """Whether a penalty may be subtracted from outcomes. False if it ignores them or compares them with a threshold."""

    power: float = 0.0
    """p of the token weights 1/|λ(i, t)|^p that it gives, as ``tree.weights(p)``, or the largest p; 0: the tokens of a
    completion count alike. Losses with one term for a completion cannot weigh tokens and are refused beside p > 0."""

    @abstractmethod
    def estimate(self, rewards: Rewards, tree: ProcessTree) -> Credit:
        """The credit of one group."""

    def estimate_batch(
        self, rewards: Sequence[Rewards], trees: Sequence[ProcessTree], *, reduce: Reduce
    ) -> list[Credit]:
        """The credit of every group; override it for statistics over the whole batch (``reduce`` sums over ranks)."""
        return [self.estimate(r, t) for r, t in zip(rewards, trees, strict=True)]


class PolicyLoss(ABC):
    """The loss of every token, from log-probs and credit. It does not depend on layout, rank or other completions."""

    normalizer: Normalizer = "token"
    """Divisor of the sum over tokens."""

    level: Level = "token"
    """Either "token" (each token has its own term) or "sequence" (all tokens of a completion share one ratio).

    At "sequence" an update passes the mean advantage of a completion's trained tokens for each of its tokens.
    """

    corrects: ClassVar[bool] = False
    """Whether ``terms`` itself applies the importance correction of tokens; if False, an update multiplies by it."""

    @abstractmethod
    def terms(self, batch: LossInput) -> Tensor:
        """``[N, T]`` to be minimised; a row depends only on that row. Values outside the mask are ignored."""

    def ratio(self, batch: LossInput) -> Tensor:
        """``[N, T]`` the importance ratio in the terms; π/π_old of each token by default."""
        return batch.log_ratio.exp()

    def advantages(self, batch: LossInput) -> Tensor:
        """``[N, T]`` advantages for this loss; at the level "sequence" the mean over a completion's trained tokens."""
        return batch.mean_advantages if self.level == "sequence" else batch.advantages

    def metrics(self, batch: LossInput) -> Mapping[str, Tensor]:
        """Name → ``[N, T]`` values; their mean over all trained tokens, without NaN, is logged."""
        return {}


class PromptSource(ABC):
    """Provides prompts from a file, a hub data set or a generator of tasks.

    Attributes:
        streaming: Whether training takes one row after another from ``rows()``, which then gives the same rows at every
            call; else it is read whole before the first step.
        shuffle_buffer: Of so many rows the next one is drawn when a stream is shuffled.
    """

    streaming: bool = False
    shuffle_buffer: int = 10_000

    @abstractmethod
    def rows(self) -> Iterable[Mapping[str, Any]]:
        """The data rows; each has a ``prompt`` (a string or a list of messages) and any other columns.

        A list, a data set, or a generator that ends, which is read completely before the first step. With
        ``streaming``, any iterable.
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
