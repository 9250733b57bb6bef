"""A sampler around a sampler: part of a group goes on from the middle of an earlier member."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import torch

from lgrpo_lightning.contracts import RandomKey, Sampler
from lgrpo_lightning.errors import UserError, require
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.samplers.around import SamplerAround
from lgrpo_lightning.samplers.stops import Stops
from lgrpo_lightning.samplers.text import decode, list_stripped
from lgrpo_lightning.types import Completion, Fork, Group, Prompt

Cut = Literal["anywhere", "line", "entropy"]


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A completion to draw: it takes over ``position`` tokens of a member of the group at ``place``."""

    name: str  # keys its noise, beside the random key
    place: int
    member: int
    position: int


class ForkingSampler(SamplerAround):
    """Draws part of each group freely, and the rest as forks: from a prefix of an earlier member.

    Long completions share hardly anything; forks give their tree a structure, and so the steps that they share several
    outcomes. What that does to the estimate: members of a group are no longer independent. A fork is a fair sample of
    what follows its prefix, but the prefix is there twice, so that group means and deviations lean towards the members
    that were forked, and a group of G has fewer than G independent beginnings. λ-GRPO's weights count the shared prefix
    once. Critics of tree sampling (DEEP-GRPO, arXiv:2602.14169) find that it dilutes the budget: compare at equal
    tokens.

    The freely drawn members are those that ``sampler`` draws without forks. Log-probs and entropies of a prefix taken
    over are the first member's; ``Completion.fork`` says whose it is and where it ends. A stop string ends a fork also
    where it begins in the prefix. The random key and the prompt's uid key everything, so that a resumed run forks
    the same.

    Args:
        sampler: Who draws. Default ``TransformersSampler()``.
        share: Share of a group that are forks; above 0 and below 1. At least one member is drawn freely.
        depth: 1 forks free members only; 2 also those of the first round, and so on.
        cut: Where a prefix may end: "anywhere" between two tokens, "line" after a line, "entropy" before one of the
            tenth of a member's tokens with the highest entropy (``TransformersSampler(entropies=True)`` or
            ``VLLMSampler(entropy_top=20)``).
        train_prefix: Whether the tokens taken over are trained in the fork, too; else they are masked there.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        sampler: Sampler | None = None,
        share: float = 0.5,
        depth: int = 1,
        cut: Cut = "anywhere",
        train_prefix: bool = True,
    ) -> None:
        require(
            "ForkingSampler: ",
            locals(),
            (0 < share < 1, "share", "above 0 and below 1"),
            (depth >= 1, "depth", "at least 1"),
            (cut in ("anywhere", "line", "entropy"), "cut", "'anywhere', 'line' or 'entropy'"),
        )
        super().__init__(sampler)
        self.takes_images = self.sampler.takes_images
        if self.sampler.takes_turns:
            raise UserError(
                "ForkingSampler: a fork goes on from the middle of a completion, and an environment would not know "
                "what came before. Put it inside: EnvironmentSampler with sampler: ForkingSampler forks first turns."
            )
        self.share, self.depth, self.cut, self.train_prefix = share, depth, cut, train_prefix

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        """One group per prompt; in training only, as validation measures what the policy does by itself."""
        with self.open_model():
            return self._sample_groups(prompts, group_size, sampling, random_key)

    def _sample_groups(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        forks = min(round(self.share * group_size), group_size - 1) if random_key.phase == "train" else 0
        groups = self.sampler.sample(prompts, group_size - forks, sampling=sampling, random_key=random_key)
        members = [list(group.completions) for group in groups]
        for number in range(self.depth if forks else 0):
            forked = len(members[0]) - (group_size - forks) if members else 0
            count = (forks - forked) // (self.depth - number)
            branches = [
                self._draw_branch(f"{prompts[place].uid}/fork/{number}/{k}", place, completions, random_key)
                for place, completions in enumerate(members)
                for k in range(count)
            ]
            for branch, completion in zip(
                branches, self._draw_forks(prompts, members, branches, sampling, random_key), strict=True
            ):
                members[branch.place].append(completion)
        return [
            replace(group, completions=tuple(completions)) for group, completions in zip(groups, members, strict=True)
        ]

    def _draw_branch(self, name: str, place: int, members: Sequence[Completion], random_key: RandomKey) -> Branch:
        """Whom to fork, and where."""
        draw = Random(f"{tuple(random_key)}/{name}")  # of a text: the same on every machine
        member = draw.randrange(len(members))
        position = draw.choice(self._list_cuts(members[member]))
        return Branch(name=name, place=place, member=member, position=position)

    def _list_cuts(self, completion: Completion) -> list[int]:
        """Positions at which a completion may be forked; 0, the whole of it anew, where there is none."""
        inside = range(1, len(completion))
        if self.cut == "line":
            text, ends = completion.text, completion.text_ends
            return [t for t in inside if text[: ends[t - 1]].endswith("\n") and ends[t - 1] < len(text)] or [0]
        if self.cut == "entropy":
            if completion.entropies is None:
                raise UserError(
                    "ForkingSampler(cut='entropy') needs Completion.entropies, which its sampler does not give. Take "
                    "sampler: {class_path: TransformersSampler, init_args: {entropies: true}} or {class_path: "
                    "VLLMSampler, init_args: {entropy_top: 20}}, or another cut."
                )
            count = max(1, len(completion) // 10)
            return sorted(t for t in completion.entropies.argsort(descending=True)[:count].tolist() if t > 0) or [0]
        return list(inside) or [0]

    def _draw_forks(
        self,
        prompts: Sequence[Prompt],
        members: Sequence[Sequence[Completion]],
        branches: Sequence[Branch],
        sampling: Sampling,
        random_key: RandomKey,
    ) -> list[Completion]:
        whose = [members[branch.place][branch.member] for branch in branches]
        asked = [
            replace(
                prompts[b.place], uid=b.name, token_ids=(*prompts[b.place].token_ids, *first.token_ids[: b.position])
            )
            for b, first in zip(branches, whose, strict=True)
        ]
        limits = [sampling.max_new_tokens - branch.position for branch in branches]
        drawn = self.sample_each(asked, limits, sampling=sampling, random_key=random_key)
        return [self._join(*parts, sampling) for parts in zip(whose, drawn, branches, strict=True)]

    def _join(self, first: Completion, rest: Completion, branch: Branch, sampling: Sampling) -> Completion:
        """The prefix of ``first`` and what was drawn after it, as one completion, up to its first stop string."""
        at, tokenizer = branch.position, self.source.tokenizer
        ends = (*self.source.eos_token_ids, *self.source.pad_token_ids)
        ids = (*first.token_ids[:at], *rest.token_ids)
        stripped = list_stripped(tokenizer, ends, sampling)
        text, text_ends = decode(tokenizer, ids, stripped)
        entropies = None
        if first.entropies is not None and rest.entropies is not None:
            entropies = torch.cat([first.entropies[:at], rest.entropies])
        taken = first.mask[:at] if self.train_prefix else torch.zeros(at, dtype=torch.bool)
        joined = Completion(
            token_ids=ids,
            logprobs=torch.cat([first.logprobs[:at], rest.logprobs]),
            text=text,
            text_ends=text_ends,
            finish_reason=rest.finish_reason,
            mask=torch.cat([taken, rest.mask]),
            weight_version=rest.weight_version,
            entropies=entropies,
            fork=Fork(member=branch.member, position=at) if at else None,
        )
        return Stops.from_strings(tokenizer, sampling.stop, ends).cut(tokenizer, joined, stripped)
