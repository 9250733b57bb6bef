"""Compiles the decoder layers before the first pass in a layout, and compares their numbers with eager ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy import Policy, Reference
from lgrpo_lightning.policy.choice import LayoutName
from lgrpo_lightning.policy.compiled_layers import compile_layers, explain_not_compiled, restore_layers
from lgrpo_lightning.policy.sharded_weights import gather_whole
from lgrpo_lightning.policy.verification import compare_passes
from lgrpo_lightning.training.batch_scorer import BatchScorer
from lgrpo_lightning.training.optimizers import compute_gradient_norm
from lgrpo_lightning.types import TrainBatch

BATCHES = ([(96, 64), (96, 48), (80, 64), (80, 40)], [(96, 64)], [(96, 64)] * 3)
"""Lengths of the prompts and completions of three passes: with padding, one row, without padding."""

Rows = tuple[list[list[int]], list[list[int]]]
Backward = Callable[[Tensor, bool], None]


class LayerCompilation:
    """Whether the layers are compiled, and for which layouts.

    The graphs are made by passes of the same shapes in every run: a resumed run then has those of the run that it
    continues, whatever lengths its first rollout has.
    """

    def __init__(self) -> None:
        self.layouts: set[LayoutName] = set()
        self.refused = False

    def prepare(
        self,
        scorer: BatchScorer,
        reference: Reference | None,
        batch: TrainBatch,
        backward: Backward,
        *,
        with_router_loss: bool = False,
    ) -> None:
        """Compile the layers for the policy's layout, unless that is done, not wanted, or does not work. Collective.

        Args:
            batch: Its tokens fill the rows of the passes.
            with_router_loss: Whether the passes of training compute it: their graphs differ.

        Raises:
            ValueError: Compiled layers are configured, and do not work.
        """
        policy = scorer.policy
        mode = policy.config.compile
        wanted = mode == "layers" or (mode == "auto" and compiles_on(policy.device))
        if self.refused or not wanted or policy.layout in self.layouts:
            return
        self.layouts.add(policy.layout)
        tokens = [i for ids in batch.trained_ids for i in ids] or batch.completions[0]
        batches = [_make_rows(policy, lengths, tokens) for lengths in BATCHES]
        problem = explain_not_compiled(policy.model) or _try_layers(
            policy, reference, lambda: _run_batches(scorer, reference, batches, backward, with_router_loss)
        )
        if not scorer.ranks.max(torch.tensor(float(problem is not None), device=policy.device)):
            return
        problem = problem or "another process could not compile its layers"
        if mode == "layers":
            raise UserError(f"policy.compile is 'layers', but {problem}. Set model.policy.compile: none.")
        self.refused = True
        for model in _list_policies(policy, reference):
            restore_layers(model.model)
        rank_zero_warn(f"policy.compile is 'auto', but {problem}. The layers of this run are not compiled.")


def compiles_on(device: torch.device) -> bool:
    """Whether "auto" compiles: matrix products take a CPU's time, not launching them."""
    return device.type == "cuda"


def _list_policies(*models: Any) -> list[Policy]:
    return [model for model in models if isinstance(model, Policy)]


def _try_layers(policy: Policy, reference: Reference | None, run: Callable[[], list[Tensor]]) -> str | None:
    """Compile the layers and make the graphs; what is wrong with them."""
    with torch.random.fork_rng():  # where there is dropout
        eager = run()
        for model in _list_policies(policy, reference):
            compile_layers(model.model)
        problem = compare_passes(run, eager, tolerance=1e-4 if policy.exact else 0.1, relative=True)
    return problem and f"log-probs or gradients of compiled layers of {type(policy.model).__name__} {problem}"


def _make_rows(policy: Policy, lengths: Sequence[tuple[int, int]], tokens: Sequence[int]) -> Rows:
    """Prompts and completions of these lengths, or shorter ones where the model takes no such rows."""
    share = min(1.0, policy.context_length / max(sum(pair) for pair in lengths))

    def draw(start: int, length: int) -> list[int]:
        return [tokens[(start + i) % len(tokens)] for i in range(max(2, int(length * share)))]

    return [draw(0, p) for p, _ in lengths], [draw(row, c) for row, (_, c) in enumerate(lengths)]


def _run_batches(
    scorer: BatchScorer,
    reference: Reference | None,
    batches: Sequence[Rows],
    backward: Backward,
    with_router_loss: bool,
) -> list[Tensor]:
    """Log-probs of all batches without and with gradients, and the norm of their gradient, of which none is left."""
    policy = scorer.policy
    if isinstance(reference, Policy):
        reference.choice = policy.choice
    fixed: list[Tensor] = []
    trained: list[Tensor] = []
    try:
        for number, rows in enumerate(batches):
            with torch.no_grad():
                scorers = [model for model in (policy, reference) if model is not None]
                fixed += [model(*rows, temperature=scorer.temperature).logprobs for model in scorers]
            scores = policy(*rows, temperature=scorer.temperature, with_router_loss=with_router_loss)
            terms = [t for t in (scores.logprobs, scores.router_loss) if t is not None]
            backward(torch.stack([t.mean() for t in terms]).sum(), number == len(batches) - 1)
            trained += [t.detach() for t in terms]
        trained.append(gather_whole(compute_gradient_norm(policy.parameters())).reshape(1))
    finally:
        policy.zero_grad(set_to_none=True)
    return fixed if policy.draws_dropout else fixed + trained
