"""A process reward model that scores the steps of completions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lgrpo_lightning import Group, ProcessTree, RewardModel, Rewards
from lgrpo_lightning.errors import UserError, require
from lgrpo_lightning.policy.refusals import check_weights
from lgrpo_prm.conventions import CONVENTIONS, Convention

DTYPES = ("float32", "bfloat16", "float16")
Outcome = Literal["none", "min", "product", "last", "mean"]


class HuggingFacePRM(RewardModel):
    """Scores every process step by a process reward model: ``Rewards.steps``, from 0 to 1.

    What a step is, the segmenter says (``DelimiterSegmenter``: a line). A step that several completions share is scored
    once, after the text of the first of them. The model has a device of its own, and is never trained or saved.

    Args:
        path: Hugging Face name or folder.
        convention: How it is fed and read: "math-shepherd", "qwen2.5-math-prm" or "token-classification".
        separator: Another separator token than the convention's.
        outcome: What completions get as outcome: "none", or the "min", "product", "last" or "mean" of their steps.
        device: Where it runs, such as "cuda:1"; "auto": a GPU where there is one.
        dtype: Of its weights: "float32", "bfloat16" or "float16".
        batch_tokens: Most tokens of one forward pass, padding included.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        ValueError: There is no such convention, outcome or dtype; later: the model lacks weights.
    """

    def __init__(
        self,
        path: str,
        convention: str = "qwen2.5-math-prm",
        separator: str | None = None,
        outcome: Outcome = "none",
        device: str = "auto",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        batch_tokens: int = 16384,
        trust_remote_code: bool = False,
    ) -> None:
        require(
            "HuggingFacePRM: ",
            locals(),
            (convention in CONVENTIONS, "convention", f"one of {', '.join(CONVENTIONS)}"),
            (outcome in get_args(Outcome), "outcome", f"one of {', '.join(get_args(Outcome))}"),
            (dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}"),
            (batch_tokens >= 1, "batch_tokens", "at least 1"),
        )
        self.path, self.convention, self.separator, self.outcome = path, convention, separator, outcome
        self.device, self.dtype, self.batch_tokens = device, dtype, batch_tokens
        self.trust_remote_code = trust_remote_code
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def rules(self) -> Convention:
        """The convention, with the separator that was asked for."""
        rules = CONVENTIONS[self.convention]
        return rules if self.separator is None else replace(rules, separator=self.separator)

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        self._load()
        jobs = [(g, m) for g, tree in enumerate(trees) for m in _needed(tree)]
        texts = [
            self.rules.text(self._tokenizer, _question(groups[g]), _texts(groups[g], trees[g], m)) for g, m in jobs
        ]
        found = dict(zip(jobs, self._scores(texts), strict=True))
        return [self._rewards(group, tree, g, found) for g, (group, tree) in enumerate(zip(groups, trees, strict=True))]

    def teardown(self) -> None:
        self._model = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_model": None, "_tokenizer": None}

    def _load(self) -> None:
        if self._model is not None:
            return
        from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

        kind = AutoModelForCausalLM if self.rules.causal else AutoModelForTokenClassification
        options: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        device = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        self._tokenizer = AutoTokenizer.from_pretrained(self.path, **options)
        model, info = kind.from_pretrained(
            self.path, dtype=getattr(torch, self.dtype), output_loading_info=True, **options
        )
        trained = "a model that was trained as a process reward model"
        check_weights("HuggingFacePRM: path", self.path, model, info, take=trained)
        self._model = model.to(device).eval().requires_grad_(False)
        for token in (self.rules.separator, self.rules.good, self.rules.bad):
            if token:
                self._id(token)

    def _id(self, token: str) -> int:
        """The id of a token of the convention."""
        pieces = self._tokenizer(token, add_special_tokens=False)["input_ids"]
        if not pieces or pieces[-1] == self._tokenizer.unk_token_id:
            raise UserError(
                f"HuggingFacePRM: the tokenizer of {self.path!r} has no token {token!r}, which the convention "
                f"{self.convention!r} needs. Take another convention, or set separator."
            )
        return int(pieces[-1])  # sentencepiece puts a piece for the space before it

    @torch.no_grad()
    def _scores(self, texts: Sequence[str]) -> list[list[float]]:
        ids = [self._tokenizer(text)["input_ids"] for text in texts]
        out: dict[int, list[float]] = {}
        separator = self._id(self.rules.separator)
        for batch in _batches([len(row) for row in ids], self.batch_tokens):
            width = max(len(ids[i]) for i in batch)
            device = self._model.device
            tokens = torch.tensor([[*ids[i], *[0] * (width - len(ids[i]))] for i in batch], device=device)
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in batch], device=device)
            good = self._good(self._model(input_ids=tokens, attention_mask=mask).logits.float()).cpu()
            for row, i in enumerate(batch):
                out[i] = [float(good[row, t]) for t, token in enumerate(ids[i]) if token == separator]
        return [out[i] for i in range(len(texts))]

    def _good(self, logits: Tensor) -> Tensor:
        """``[B, T]`` probability that a step which ends here is good."""
        if not self.rules.causal:
            return logits.softmax(-1)[..., -1]
        pair = torch.tensor([self._id(self.rules.good), self._id(self.rules.bad)], device=logits.device)
        return logits.index_select(-1, pair).softmax(-1)[..., 0]

    def _rewards(self, group: Group, tree: ProcessTree, g: int, found: dict[tuple[int, int], list[float]]) -> Rewards:
        steps = torch.full((len(tree.steps),), math.nan)
        for member in _needed(tree):
            own, scores = _path(tree, member), found[g, member]
            if len(scores) < len(own):  # a separator is missing: what was read belongs to no step
                continue
            for number, score in zip(own, scores[-len(own) :], strict=True):
                if math.isnan(float(steps[number])):
                    steps[number] = score
        outcome = torch.tensor([self._outcome(steps[_path(tree, m)]) for m in range(len(group))])
        return Rewards(outcome=outcome, steps=steps, parts={self.name: outcome})

    def _outcome(self, steps: Tensor) -> float:
        there = steps[~steps.isnan()]
        if self.outcome == "none" or not len(there):
            return math.nan
        values = {"min": there.min(), "product": there.prod(), "last": there[-1], "mean": there.mean()}
        return float(values[self.outcome])


def _needed(tree: ProcessTree) -> list[int]:
    """Completions that have every step of the tree between them."""
    return sorted({step.members[0] for step in tree.steps})


def _path(tree: ProcessTree, member: int) -> list[int]:
    row = tree.step_ids[member]
    return list(dict.fromkeys(row[row >= 0].tolist()))


def _texts(group: Group, tree: ProcessTree, member: int) -> list[str]:
    steps = [tree.steps[number] for number in _path(tree, member)]
    spans = [step.spans[step.members.index(member)] for step in steps]
    return [group.completions[member].text_between(*span) for span in spans]


def _question(group: Group) -> str:
    """The prompt: of a chat its last message by the user."""
    if group.prompt.messages is None:
        return group.prompt.text
    users = [m["content"] for m in group.prompt.messages if m.get("role") == "user"]
    return str(users[-1]) if users else group.prompt.text


def _batches(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Indices in batches within ``limit`` tokens, padding included, those of like length together."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > limit:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
