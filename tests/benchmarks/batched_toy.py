"""The paper's toy for many seeds, rewards and estimators at once: policies that are trained in one batch of tensors.

``lgrpo fit --config configs/paper_toy.yaml`` takes 8 seconds, nearly all of it around the arithmetic of a policy that
has 15 states. Here weights, noise, rewards, advantages, loss, clipping and optimizer are the same, and every run of
the batch computes its 15 states in one pass; ``tests/integration/test_powers_by_sign.py`` compares the rollouts with
those of ``lgrpo fit``, and the credit with that of the estimators. In place of the GPT-2 the policy can be a table of
the logits of the 30 edges, 0 at the start: thousands of runs in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.estimators import GTPO, LambdaGRPO, SignedPower
from lgrpo_lightning.functional import group_advantages
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards import BinaryTreeReward
from lgrpo_lightning.samplers.noise import draw_gumbel, make_row_key
from lgrpo_lightning.testing import toy_group

DEPTH, GROUP, TARGET = 4, 16, "LRRL"
STATES = ["".join(path) for depth in range(DEPTH) for path in product("LR", repeat=depth)]
"""What a walk may have behind it, breadth first: state s goes on to 2s + 1 and 2s + 2, letter a by edge 2s + a."""
LEAVES = ["".join(path) for path in product("LR", repeat=DEPTH)]
TOKENS = torch.tensor(["^LR".index((state or "^")[-1]) + 3 for state in STATES])
DEPTHS = torch.tensor([len(state) for state in STATES])
SEES = torch.tensor([[q.startswith(k) for k in STATES] for q in STATES])
LAYERS, WIDTH, HEADS = 2, 64, 2


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An estimator: powers of the λ weights by sign, and the factor of GTPO's rule where it applies."""

    blame: float = 0.0
    praise: float = 0.0
    factor: float | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Its entry in a configuration."""
        power = self.blame if self.blame == self.praise else {"blame": self.blame, "praise": self.praise}
        if self.factor is None:
            return {"class_path": "LambdaGRPO", "init_args": {"power": power}}
        return {"class_path": "GTPO", "init_args": {"lambda_power": power, "conflict_factor": self.factor}}

    def make_estimator(self) -> LambdaGRPO | GTPO:
        """The library's."""
        power = SignedPower(blame=self.blame, praise=self.praise)
        if self.factor is None:
            return LambdaGRPO(power=power)
        return GTPO(lambda_power=power, conflict_factor=self.factor)


def leaf_rewards(shared: int, penalty: float) -> Tensor:
    """``[16]`` what every leaf pays."""
    group = toy_group(LEAVES, columns={"target": TARGET})
    tree = ProcessTree.from_sequences(group.sequences)
    return BinaryTreeReward(shared=shared, penalty=penalty).score(group, tree).outcome


@cache
def initial_weights(seed: int) -> tuple[Tensor, dict[str, torch.Size]]:
    """The policy that ``lgrpo fit`` starts from: ``[P]``, and the shape of each of its tensors."""
    from lightning.pytorch import seed_everything

    from lgrpo_lightning.policy import PolicyConfig
    from lgrpo_lightning.policy.loading import load_model

    seed_everything(seed, verbose=False)
    named = dict(load_model(PolicyConfig(path="lgrpo:toy", weights="random")).named_parameters())
    shapes = {name.removeprefix("transformer."): weight.shape for name, weight in named.items()}
    return torch.cat([weight.detach().flatten() for weight in named.values()]), shapes


@cache
def draw_noise(seed: int, rollouts: int) -> Tensor:
    """``[rollouts, 16, 4, 2]`` what the sampler adds to the logits of L and R."""
    keys = [make_row_key(RandomKey(seed, "train", r), "train/0", m) for r in range(rollouts) for m in range(GROUP)]
    # six ids are drawn in two blocks of three; L and R are the last two of the second
    drawn = [draw_gumbel(torch.tensor(keys), position, 2, 3)[:, 1:] for position in range(DEPTH)]
    return torch.stack(drawn, 1).view(rollouts, GROUP, DEPTH, 2)


def compute_logprobs(flat: Tensor, shapes: dict[str, torch.Size]) -> Tensor:
    """``[S, 30]`` log-probs of every edge under policies ``[S, P]``.

    Args:
        shapes: Of the tensors of a GPT-2, which reads the tree of the 15 states; empty: ``flat`` are logits.
    """
    if not shapes:
        return flat.unflatten(1, (len(STATES), 2)).log_softmax(-1).flatten(1)
    parts = flat.split([shape.numel() for shape in shapes.values()], dim=1)
    w = {name: part.unflatten(1, shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def norm(x: Tensor, name: str) -> Tensor:
        return torch.addcmul(w[f"{name}.bias"][:, None], layer_norm(x, (WIDTH,)), w[f"{name}.weight"][:, None])

    def linear(x: Tensor, name: str) -> Tensor:
        return torch.baddbmm(w[f"{name}.bias"][:, None], x, w[f"{name}.weight"])

    x = w["wte.weight"].index_select(1, TOKENS) + w["wpe.weight"].index_select(1, DEPTHS)
    for layer in (f"h.{i}" for i in range(LAYERS)):
        heads = linear(norm(x, f"{layer}.ln_1"), f"{layer}.attn.c_attn").unflatten(2, (3, HEADS, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=SEES)
        x = x + linear(seen.transpose(1, 2).flatten(2), f"{layer}.attn.c_proj")
        inner = gelu(linear(norm(x, f"{layer}.ln_2"), f"{layer}.mlp.c_fc"), approximate="tanh")
        x = x + linear(inner, f"{layer}.mlp.c_proj")
    logits = norm(x, "ln_f") @ w["wte.weight"][:, 4:6].mT
    return logits.log_softmax(-1).flatten(1)


def draw_walks(logprobs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(edges ``[S, 16, 4]``, leaves ``[S, 16]``) of walks under edge log-probs ``[S, 30]``."""
    state = torch.zeros(noise.shape[:2], dtype=torch.long)
    edges = []
    for position in range(DEPTH):
        both = torch.stack([logprobs.gather(1, 2 * state + letter) for letter in (0, 1)], -1)
        letter = (both + noise[:, :, position]).argmax(-1)
        edges.append(2 * state + letter)
        state = 2 * state + 1 + letter
    return torch.stack(edges, -1), state - len(STATES)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Arms of a batch of runs: powers ``[S, 1]`` and factors ``[S, 1, 1]``, NaN where GTPO does not apply."""

    blame: Tensor
    praise: Tensor
    factor: Tensor

    @classmethod
    def from_arms(cls, arms: Sequence[Arm]) -> Rules:
        """One of each run."""
        factors = [float("nan") if arm.factor is None else arm.factor for arm in arms]
        return cls(
            blame=torch.tensor([[arm.blame] for arm in arms]),
            praise=torch.tensor([[arm.praise] for arm in arms]),
            factor=torch.tensor(factors)[:, None, None],
        )


def weigh_edges(
    edges: Tensor, advantages: Tensor, rules: Rules, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sums over the walks through an edge of weight x advantage, ``[S, 30]``: of advantages above 0, and below.

    Args:
        edges: ``[S, 16, 4]``.
        advantages: ``[S, 16]``.
        importance: ``[S, 16]`` factor of each walk that is no part of its credit.
    """

    def add_up(values: Tensor) -> Tensor:
        return torch.zeros(len(edges), 2 * len(STATES)).scatter_add_(1, edges.flatten(1), values.flatten(1))

    def divide(values: Tensor) -> tuple[Tensor, Tensor]:
        return add_up(values.clamp(min=0)), add_up(values.clamp(max=0))

    values = advantages[:, :, None].expand(edges.shape)
    up, down = divide(values)
    conflict = ((up > 0) & (down < 0)).gather(1, edges.flatten(1)).view(edges.shape) & ~rules.factor.isnan()
    values = torch.where(conflict, rules.factor * values.clamp(min=0), values)
    up, down = divide(values)
    blamed = up + down < -1e-6 * (up - down)
    weights = add_up(torch.ones(edges.shape)).clamp(min=1) ** -torch.where(blamed, rules.blame, rules.praise)
    if importance is not None:
        up, down = divide(values * importance[:, :, None])
    return weights * up, weights * down


def train(
    runs: Sequence[tuple[int, Tensor, Arm]],
    lr: float,
    *,
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
    rollouts: int = 250,
    iterations: int = 1,
    ahead: int = 0,
    table: bool = False,
) -> Tensor:
    """``[S, rollouts, 16]`` the leaves that the walks of each rollout reach, by their place in ``LEAVES``.

    Args:
        runs: (seed, what leaves pay ``[16]``, estimator) of each.
        iterations: Optimizer steps of a rollout.
        ahead: Updates that the sampler's weights lie behind, with ``sequence_mask`` as correction.
        table: Train logits in place of a GPT-2.
    """
    seeds = sorted({seed for seed, _, _ in runs})
    place = torch.tensor([seeds.index(seed) for seed, _, _ in runs])
    noise = torch.stack([draw_noise(seed, rollouts) for seed in seeds], 1)
    pays, rules = torch.stack([paid for _, paid, _ in runs]), Rules.from_arms([arm for _, _, arm in runs])
    shapes = {} if table else initial_weights(seeds[0])[1]
    flat = torch.stack([torch.zeros(2 * len(STATES)) if table else initial_weights(seed)[0] for seed, _, _ in runs])
    stepper = optimizer([flat.requires_grad_()], lr=lr, fused=True)  # type: ignore[call-arg]
    older: deque[Tensor] = deque(maxlen=ahead + 1)
    reached = []
    for rollout in range(rollouts):
        logprobs = compute_logprobs(flat, shapes)
        old = logprobs.detach()
        older.append(old)
        edges, leaves = draw_walks(older[0], noise[rollout].index_select(0, place))
        reached.append(leaves)
        importance = None
        if ahead:
            ratio = (old - older[0]).gather(1, edges.flatten(1)).view(edges.shape).sum(-1).exp()
            importance = ratio.masked_fill(ratio > 3, 0.0)
        up, down = weigh_edges(edges, group_advantages(pays.gather(1, leaves)), rules, importance)
        for iteration in range(iterations):
            if iteration:
                logprobs = compute_logprobs(flat, shapes)
            ratio = (logprobs - old).exp()
            (-(ratio.clamp(max=1.2) * up + ratio.clamp(min=0.8) * down).sum() / (GROUP * DEPTH)).backward()
            gradient = flat.grad
            assert gradient is not None
            gradient.mul_((1 / (gradient.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1))  # clipped run by run
            stepper.step()
            flat.grad = None
    return torch.stack(reached, 1)
