"""What a way of reaching a vLLM engine offers: in process, or over HTTP."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lgrpo_lightning.contracts import Adapter
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.samplers.text import WRITTEN_OUT
from lgrpo_lightning.types import FinishReason

NEVER = -100.0
"""vLLM's least bias of a logit: a probability of e^-100."""


class VLLMError(UserError):
    """An engine or a server failed; the message names it and says what to do."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """``count`` completions of one prompt; the same seed gives the same ones."""

    prompt: tuple[int, ...]
    seed: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Output:
    """One completion with the log-prob of each of its tokens under the distribution really sampled from."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    entropies: tuple[float, ...] | None = None


class Transport(ABC):
    """One or several engines with the same weights."""

    peer: str  # what messages call it
    dtype: str  # of the engines' weights
    max_model_len: int  # most tokens of a prompt and its completion
    takes_adapter: bool  # whether ``push_adapter`` may be used

    @abstractmethod
    def push(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        """Give the engines these weights and forget everything cached under the old ones. Collective."""

    @abstractmethod
    def push_adapter(self, adapter: Adapter, version: int) -> None:
        """Give the engines this adapter on top of the weights last pushed, likewise. Collective."""

    def has_lost_base(self) -> bool:
        """Whether an engine no longer has the weights that adapters are put on. Collective."""
        return False

    @abstractmethod
    def generate(self, requests: Sequence[Request], arguments: Mapping[str, Any]) -> list[list[Output]]:
        """The completions of each request, from the weights last pushed; with ``make_sampling_arguments``."""

    @abstractmethod
    def sleep(self, level: int) -> None:
        """Free the engines' memory: the cache, and the weights to the CPU (1) or altogether (2)."""

    @abstractmethod
    def wake(self) -> None:
        """Take the memory back."""

    @abstractmethod
    def close(self) -> None:
        """Release everything."""


def make_sampling_arguments(
    sampling: Sampling, eos: Sequence[int], *, excluded: Iterable[int], written_out: bool, top: int
) -> dict[str, Any]:
    """Arguments of ``vllm.SamplingParams``, and fields of a completion request: the names are the same.

    Args:
        eos: With the stop strings all that ends a completion, whatever the engine itself takes for the end.
        excluded: Ids that must not be drawn.
        written_out: Whether stop strings see special tokens.
        top: How many of the most probable tokens' log-probs come along for each token, for entropies; -1: all.
    """
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "max_tokens": sampling.max_new_tokens,
        "stop": list(sampling.stop),
        "stop_token_ids": list(eos),
        # the engine's end of sequence may be another than the run's, which are stop tokens
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "logprobs": top,  # beside the sampled token's own
        "logit_bias": dict.fromkeys(excluded, NEVER) or None,
        **(WRITTEN_OUT if written_out else {}),
    }


def check_completion(
    peer: str,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    finish_reason: str | None,
    entropies: tuple[float, ...] | None = None,
) -> Output:
    """A completion; an error where the engine gave up on it, or where tokens and log-probs do not match."""
    if finish_reason not in ("stop", "length"):
        raise VLLMError(
            f"{peer} ended a completion after {len(token_ids)} tokens with {finish_reason!r} instead of 'stop' or "
            "'length': it was aborted. See the engine's log."
        )
    if len(token_ids) != len(logprobs):
        raise VLLMError(f"{peer} gave {len(token_ids)} tokens with {len(logprobs)} log-probs.")
    return Output(
        token_ids=tuple(token_ids),
        logprobs=tuple(logprobs),
        finish_reason="stop" if finish_reason == "stop" else "length",
        entropies=entropies,
    )


def estimate_entropies(tops: Iterable[Mapping[Any, float]]) -> tuple[float, ...]:
    """The entropy at each token, from log-probs by token."""
    return tuple(estimate_entropy(top.values()) for top in tops)


def estimate_entropy(logprobs: Iterable[float]) -> float:
    """Entropy, in nats, of a distribution of which only some tokens' log-probs are known.

    What is missing to a probability of 1 counts as one token, so that this is at most the entropy, and all of it where
    every token is known.

    >>> [round(estimate_entropy(p), 4) for p in ([math.log(0.5)] * 2, [math.log(0.5)], [0.0, -math.inf])]
    [0.6931, 0.6931, 0.0]
    """
    known = [p for p in logprobs if p > -math.inf]
    rest = 1.0 - math.fsum(map(math.exp, known))
    parts = [-p * math.exp(p) for p in known]
    return max(0.0, math.fsum(parts) - (rest * math.log(rest) if rest > 1e-6 else 0.0))
