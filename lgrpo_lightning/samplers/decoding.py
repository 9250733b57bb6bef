"""The decode loop of one batch: prefill each prompt once, repeat its cache, drop rows as they finish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.distributed.interruption import abandon_if_stopping
from lgrpo_lightning.functional.sampling import Sampling, truncate_logits
from lgrpo_lightning.functional.vocabulary import Vocabulary
from lgrpo_lightning.policy.cache import check_cache, explain_cache_errors, find_cache_argument, make_cache, select_rows
from lgrpo_lightning.policy.image_body import find_next_positions, prepare_pass
from lgrpo_lightning.policy.layout import ImageReader, pad_left, place
from lgrpo_lightning.policy.rotary import check_length
from lgrpo_lightning.samplers.left_padding import takes_left_padding
from lgrpo_lightning.samplers.noise import gumbel_argmax
from lgrpo_lightning.samplers.stops import Stops, StopSearch

COMPACT_BELOW = 0.8
"""Finished rows are removed from the batch when less than this share of it is still running."""
CHECK_EVERY = 8
"""On CUDA the host looks this often, in tokens, which rows are done: each look waits for all work under way."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One completion to draw: which prompt of the batch it continues and the key of its noise."""

    prompt: int
    key: int


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One drawn completion."""

    token_ids: tuple[int, ...]
    logprobs: Tensor
    stopped: bool
    entropies: Tensor | None = None


class Decoding:
    """Draws completions for a batch of requests.

    Args:
        model: The causal LM, in evaluation mode.
        eos: Token ids that end a completion.
        vocabulary: The ids that may be drawn; None: all.
        padding: Token ids without text, for stop strings.
        entropies: Whether to tell the entropy of what each token was drawn from.
        reader: Of prompts with images.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        eos: Sequence[int],
        sampling: Sampling,
        *,
        vocabulary: Vocabulary | None = None,
        padding: Sequence[int] = (),
        entropies: bool = False,
        reader: ImageReader | None = None,
    ) -> None:
        self.model = model
        self.reader = reader
        self.vocabulary = vocabulary
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.with_entropies = entropies
        self.device = model.device
        self.stops = Stops.from_strings(tokenizer, sampling.stop, (*eos, *padding))
        self.cache_argument = find_cache_argument(model)
        self.every = CHECK_EVERY if self.device.type == "cuda" else 1
        self.ends = torch.tensor([*eos, *self.stops.token_ids], device=self.device)
        self.logits: Tensor

    def run(self, prompts: Sequence[Sequence[int]], requests: Sequence[Request]) -> list[Decoded]:
        """One completion per request, in order. ``prompts`` are token ids, each prefilled once.

        Raises:
            ValueError: Rows may be so long that they would depend on each other, or the model takes no cache.
        """
        check_length(self.model.config, max(map(len, prompts)) + self.sampling.max_new_tokens)
        lengths = sorted({len(p) for p in prompts})
        if len(lengths) == 1 or takes_left_padding(self.model, prompts, self._compute_first_logits):
            return self._run(prompts, requests)
        results: dict[int, Decoded] = {}
        for length in lengths:
            indices = [i for i, p in enumerate(prompts) if len(p) == length]
            mine = [i for i, r in enumerate(requests) if r.prompt in indices]
            moved = [replace(requests[i], prompt=indices.index(requests[i].prompt)) for i in mine]
            results.update(zip(mine, self._run([prompts[i] for i in indices], moved), strict=True))
        return [results[i] for i in range(len(requests))]

    def _run(self, prompts: Sequence[Sequence[int]], requests: Sequence[Request]) -> list[Decoded]:
        """The same, all in one batch."""
        self._prefill(prompts, [r.prompt for r in requests])
        count, limit = len(requests), self.sampling.max_new_tokens
        self.rows = torch.arange(count, device=self.device)  # the request of each running row
        self.keys = torch.tensor([r.key for r in requests], dtype=torch.long, device=self.device)
        tokens = torch.zeros(count, limit, dtype=torch.long, device=self.device)
        logprobs = torch.zeros(count, limit, device=self.device)
        entropies = torch.zeros_like(logprobs) if self.with_entropies else None
        self.lengths = torch.full((count,), limit, device=self.device)
        self.done = torch.zeros(count, dtype=torch.bool, device=self.device)  # by request
        self.searches = [StopSearch(self.tokenizer, self.stops) for _ in requests]
        checked = 0  # first position whose text was not looked through for stop strings
        for t in range(limit):
            abandon_if_stopping()
            chosen, scores = self._draw(t)
            tokens[self.rows, t], logprobs[self.rows, t] = chosen, scores
            if entropies is not None:
                entropies[self.rows, t] = self._compute_entropies()
            self._end(torch.isin(chosen, self.ends), t)
            if t + 1 == limit or (t + 1) % self.every == 0:
                # on the CPU side, and only every few tokens: reading tokens waits for the GPU
                for position in range(checked, t + 1) if self.sampling.stop else ():
                    self._end(self._find_stop_strings(tokens, position), position)
                checked = t + 1
                running = ~self.done.index_select(0, self.rows)
                if t + 1 == limit or not bool(running.any()):
                    break
                chosen = self._drop_finished(running, chosen)
            self._forward(chosen[:, None])
        return self._collect(tokens, logprobs, entropies)

    def _collect(self, tokens: Tensor, logprobs: Tensor, entropies: Tensor | None) -> list[Decoded]:
        ids, logprobs = tokens.tolist(), logprobs.cpu()
        entropies = None if entropies is None else entropies.cpu()
        return [
            Decoded(
                token_ids=tuple(ids[i][:n]),
                logprobs=logprobs[i, :n].clone(),
                stopped=stopped,
                entropies=None if entropies is None else entropies[i, :n].clone(),
            )
            for i, (n, stopped) in enumerate(zip(self.lengths.tolist(), self.done.tolist(), strict=True))
        ]

    def _end(self, ended: Tensor, t: int) -> None:
        """Note that the running rows with ``ended`` ``[R]`` end with token ``t``, unless they ended before."""
        was, length = self.done.index_select(0, self.rows), self.lengths.index_select(0, self.rows)
        # tokens are looked at late and in any order: the earliest end counts
        first = ended & (~was | (length > t + 1))
        self.lengths.index_copy_(0, self.rows, torch.where(first, t + 1, length))
        self.done.index_copy_(0, self.rows, was | ended)

    def _prefill(self, prompts: Sequence[Sequence[int]], of_row: list[int]) -> None:
        """Run each prompt once and repeat its cache for every row that continues it."""
        self._read(prompts)
        check_cache(self.cache, self.model)
        at = torch.tensor(of_row, device=self.device)
        self._select(at)
        self.logits = self.logits.index_select(0, at)

    def _compute_first_logits(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """``[n, 2V]`` logits after each prompt and one token more."""
        self._read(prompts)
        first = self.logits
        self._forward(torch.tensor([[p[-1]] for p in prompts], device=self.device))
        return torch.cat([first, self.logits], dim=1)

    def _read(self, prompts: Sequence[Sequence[int]]) -> None:
        """Run each prompt once, padded on the left, into an empty cache."""
        ids, mask, positions = pad_left(prompts)
        whole = bool(mask.all())
        placed = place(self.device, ids=ids, mask=mask.long(), positions=positions)
        ids, mask, self.positions = placed["ids"], placed["mask"], placed["positions"]
        with explain_cache_errors(self.model):
            self.cache = self._make_cache()
        self.mask = None if whole else self._extend_mask(mask, 0)
        given = self._read_images(prompts, ids, mask)
        with explain_cache_errors(self.model):
            self._forward(ids, given)

    def _read_images(self, prompts: Sequence[Sequence[int]], ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """What the model is given of the images in ``prompts``, and of the positions that depend on them."""
        if self.reader is None:
            return {}
        starts, width = [ids.shape[1] - len(p) for p in prompts], ids.shape[1]
        images = self.reader.make_inputs(prompts, starts=starts, width=width, device=self.device)
        given = prepare_pass(self.model, ids, self.positions, mask, images)[1]
        self.positions = given.pop("position_ids")
        return given

    def _forward(self, ids: Tensor, images: Mapping[str, Any] | None = None) -> None:
        """Feed ``[R, n]`` tokens at ``self.positions``; keep the logits of the last one."""
        mask = self.mask
        if mask is not None and self.cache_argument == "cache_params":
            mask = mask[:, -ids.shape[1] :]  # without attention it is that of the new tokens alone
        arguments = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": self.positions,
            self.cache_argument: self.cache,
            "use_cache": True,
            **(images or {}),
        }
        self.logits = self._compute_logits(arguments)
        if self.vocabulary is not None:
            self.logits = self.vocabulary.masked(self.logits)
        self.positions = find_next_positions(self.positions)
        if self.mask is not None:
            self.mask = self._extend_mask(self.mask, 1)

    def _make_cache(self) -> Any:
        return make_cache(self.model, spare=self.sampling.max_new_tokens)

    def _extend_mask(self, mask: Tensor, by: int) -> Tensor:
        """``mask`` with room for ``by`` more tokens."""
        return torch.cat([mask, mask.new_ones(len(mask), by)], dim=1)

    def _compute_logits(self, arguments: dict[str, Any]) -> Tensor:
        """``[R, V]`` logits of the last of the tokens in ``arguments``."""
        logits: Tensor = self.model(**arguments, logits_to_keep=1).logits[:, -1]
        return logits

    def _draw(self, position: int) -> tuple[Tensor, Tensor]:
        """The next token of every running row and its log-prob under the distribution it was drawn from."""
        logits = truncate_logits(self.logits, self.sampling)
        if self.sampling.temperature > 0:
            return gumbel_argmax(logits, self.keys, position)
        best = logits.max(-1)
        return best.indices, best.values - logits.logsumexp(-1)

    def _compute_entropies(self) -> Tensor:
        """``[R]`` entropy of what the running rows are drawn from, in nats."""
        logits = truncate_logits(self.logits, self.sampling)
        entropies: Tensor = torch.special.entr(logits.softmax(-1)).sum(-1)
        return entropies

    def _drop_finished(self, running: Tensor, chosen: Tensor) -> Tensor:
        """The tokens ``[R]`` to go on from; finished rows leave the batch once enough of them have gathered."""
        if (keep := self._choose_rows(running)) is not None:
            self._select(keep)
            self.rows, self.keys = self.rows.index_select(0, keep), self.keys.index_select(0, keep)
            chosen = chosen.index_select(0, keep)
        return chosen

    def _choose_rows(self, running: Tensor) -> Tensor | None:
        """The rows to go on with, or None for all."""
        if int(running.sum()) >= COMPACT_BELOW * len(running):
            return None
        return running.nonzero().squeeze(1)

    def _select(self, rows: Tensor) -> None:
        select_rows(self.cache, rows)
        self.positions = self.positions.index_select(0, rows)
        if self.mask is not None:
            self.mask = self.mask.index_select(0, rows)

    def _find_stop_strings(self, tokens: Tensor, t: int) -> Tensor:
        """``[R]`` bool: with token ``t`` the text of the row contains a stop string; asked for one after another."""
        at = zip(self.rows.tolist(), tokens[self.rows, t].tolist(), strict=True)
        return torch.tensor([self.searches[row].append(i) for row, i in at], device=self.device)
