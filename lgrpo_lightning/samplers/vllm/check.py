"""Does the engine hold the policy's weights? Log-probs of a few sampled tokens from both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.functional.sampling import Sampling, truncate_logits
from lgrpo_lightning.functional.vocabulary import Vocabulary
from lgrpo_lightning.samplers.vllm.transport import Output, VLLMError

TOLERANCES = {"float32": 2e-3, "bfloat16": 0.25, "float16": 0.1}
"""Largest mean difference of log-probs by the coarser type of engine and policy.

Measured on two vCPUs: fp32 about 1e-6; bf16 0.04 on average for a 135M-parameter model.
"""
TEXT = "The quick brown fox jumps over the lazy dog. 0 1 2 3 4 5 6 7 8 9 + - = "

CAUSES = """\
Likely causes:
  - cached prompts of older weights: the prefix cache was not reset after the weights were taken over;
  - an output head that was not taken over: tied to the embedding and packed once (vLLM on a CPU);
  - another model or revision in the engine, or a server that somebody else updates;
  - another temperature, top_p, top_k or min_p, or log-probs that are not 'processed_logprobs';
  - weights that the engine did not take over, as it knows them by other names (its log lists those);
  - a coarser dtype or quantization in the engine than sampler.check_tolerance allows."""


def make_probe_prompt(tokenizer: Any, *, length: int, fallback: Sequence[int]) -> tuple[int, ...]:
    """``length`` token ids of a fixed text: long enough to fill whole blocks of the prefix cache."""
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"] or list(fallback)
    return tuple(ids[i % len(ids)] for i in range(length))


@torch.no_grad()
def compute_policy_logprobs(
    model: Any,
    prompt: Sequence[int],
    completion: Sequence[int],
    sampling: Sampling,
    vocabulary: Vocabulary | None = None,
) -> Tensor:
    """``[T]`` log-probs that the policy gives to ``completion`` after ``prompt``, under the same truncation."""
    ids = torch.tensor([[*prompt, *completion]], device=model.device)
    logits = model(input_ids=ids, logits_to_keep=len(completion) + 1, use_cache=False).logits[0, :-1]
    if vocabulary is not None:
        vocabulary.check([completion])
        logits = vocabulary.masked(logits)
    scores = truncate_logits(logits, sampling).log_softmax(-1)
    return scores.gather(-1, ids[0, len(prompt) :, None]).squeeze(-1).cpu()


def measure_difference(engine: Tensor, policy: Tensor) -> float:
    """Mean absolute difference; tokens at the very edge of a truncated distribution are left out unless all are.

    >>> measure_difference(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -torch.inf]))
    0.5
    """
    kept = policy.isfinite()
    if 2 * int(kept.sum()) < len(policy):
        return float("inf")
    return (engine - policy)[kept].abs().mean().item() if bool(kept.any()) else 0.0


def check_completions(
    model: Any,
    pairs: Sequence[tuple[Sequence[int], Output]],
    sampling: Sampling,
    *,
    vocabulary: Vocabulary | None = None,
    tolerance: float,
    peer: str,
    version: int,
) -> float:
    """Compare the engine's log-probs with the policy's; the largest difference of a completion.

    Args:
        pairs: (prompt, completion) of each.
        tolerance: Largest mean difference of a completion; past it there is a ``VLLMError`` with the likely causes.
        peer, version: The engine and the version of its weights, for the message.
    """
    worst = 0.0
    for prompt, output in pairs:
        engine = torch.tensor(output.logprobs)
        policy = compute_policy_logprobs(model, prompt, output.token_ids, sampling, vocabulary)
        worst = max(worst, far := measure_difference(engine, policy))
        if not far <= tolerance:
            raise VLLMError(
                f"{peer} does not sample from the policy's weights (version {version}): on {len(engine)} tokens its "
                f"log-probs differ from the policy's by {far:.3g} on average; {tolerance:.3g} is allowed "
                f"(sampler.check_tolerance). Engine: {_shorten(engine)}; policy: {_shorten(policy)}.\n{CAUSES}"
            )
    return worst


def _shorten(values: Tensor) -> str:
    return "[" + ", ".join(f"{v:.4f}" for v in values[:4].tolist()) + (", …]" if len(values) > 4 else "]")
