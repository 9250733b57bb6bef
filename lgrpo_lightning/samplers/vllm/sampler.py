"""Sampling with vLLM, in this process or from servers, synchronised with the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from lgrpo_lightning.contracts import RandomKey, Sampler, WeightSource
from lgrpo_lightning.distributed.interruption import is_aside
from lgrpo_lightning.errors import UserError, require
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.samplers.noise import make_row_key
from lgrpo_lightning.samplers.stops import Stops
from lgrpo_lightning.samplers.text import decode, list_stripped
from lgrpo_lightning.samplers.vllm.check import TOLERANCES, check_completions, make_probe_prompt
from lgrpo_lightning.samplers.vllm.isolation import isolate_engine
from lgrpo_lightning.samplers.vllm.options import CPU_BLOCK, EngineOptions, ServerOptions
from lgrpo_lightning.samplers.vllm.transport import Output, Request, Transport, make_sampling_arguments
from lgrpo_lightning.types import Completion, Group, Prompt

PROBE_TOKENS = 16
BASE = -1
"""Version of the weights of a model without its adapter."""


class VLLMSampler(Sampler):
    """Draws completions with vLLM, on a CPU or on CUDA, in this process or from servers that ``lgrpo serve`` starts.

    The weights are taken over after each rollout's updates. After the first time, and every ``check_every`` times,
    the engine's log-probs of a few tokens are compared with the policy's, and the run stops where they differ.
    The same random key and prompt give the same completions from the same engine.

    Args:
        engine: How the engine is built.
        server: Where the servers are; without urls the engine runs in this process, one for each rank.
        check_every: Weight updates between checks; 0 never checks.
        check_tolerance: Largest mean difference of log-probs. Null: by dtype, 0.002 for float32, 0.1 for float16,
            0.25 for bfloat16.
        sleep_level: Free the engine's GPU memory between rollouts: 1 keeps its weights on the CPU, 2 nothing;
            0 stays awake. Nothing on a CPU.
        entropy_top: Fill ``Completion.entropies`` from the log-probs of this many most probable tokens at each token:
            20 are enough to tell decided tokens from undecided ones, -1 (all, exact) is for small vocabularies, as
            the engine hands every number over; 0 fills nothing.
    """

    def __init__(
        self,
        engine: EngineOptions = EngineOptions(),  # noqa: B008 - frozen
        server: ServerOptions = ServerOptions(),  # noqa: B008
        check_every: int = 50,
        check_tolerance: float | None = None,
        sleep_level: Literal[0, 1, 2] = 0,
        entropy_top: int = 0,
    ) -> None:
        require(
            "sampler.",
            locals(),
            (check_every >= 0, "check_every", "at least 0 (0: never)"),
            (check_tolerance is None or check_tolerance > 0, "check_tolerance", "above 0, or null"),
            (sleep_level in (0, 1, 2), "sleep_level", "0, 1 or 2"),
            (entropy_top >= -1, "entropy_top", "at least 0, or -1 for all tokens"),
        )
        self.engine, self.server = engine, server
        self.apart = bool(server.urls)
        self.check_every, self.check_tolerance = check_every, check_tolerance
        self.sleep_level, self.entropy_top = sleep_level, entropy_top
        self.transport: Transport | None = None

    def setup(self, source: WeightSource) -> None:
        """Remember the policy; the engine starts with the first ``sync``, when the policy is where it will train."""
        self.teardown()
        if (size := getattr(source, "tensor_parallel_size", 1)) > 1:
            raise UserError(
                f"VLLMSampler does not go with tensor_parallel_size: {size} of the training. Use "
                "TransformersSampler, or tensor_parallel_size: 1, which shards the policy over all devices."
            )
        self.source = source
        self.ranks = find_trainer_ranks()
        self.version: int | None = None
        self.asleep = False
        self.has_base = False
        self.syncs = 0
        self.check_due = False

    def sync(self, version: int) -> None:
        """Take over the policy's weights, unless the engine has this version already. Collective."""
        transport = self.transport or self._start()
        lost = self.asleep and self.sleep_level == 2  # the weights are gone
        if self.asleep:
            transport.wake()
            self.asleep = False
        if version == self.version and not lost:
            return
        self.version = None  # until all of it has arrived
        self._push(transport, version, anew=lost)
        self.version = version
        self.check_due |= bool(self.check_every) and self.syncs % self.check_every == 0
        self.syncs += 1

    def _push(self, transport: Transport, version: int, *, anew: bool) -> None:
        """All weights; or, where the engine takes the adapter, the base once and from then on the adapter."""
        adapter = self.source.adapter() if transport.takes_adapter else None
        if adapter is None:
            transport.push(self.source.stored(self.source.weights()), version)
            return
        if anew or not self.has_base or transport.has_lost_base():
            transport.push(self.source.stored(self.source.base_weights()), BASE)
            self.has_base = True
        transport.push_adapter(adapter, version)

    def ready(self, sampling: Sampling) -> None:
        """Compare the probe's log-probs with the policy's, where that is due."""
        if self.check_due:
            self._check((), (), sampling)

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        """One group per prompt, in order; checked against the policy where a check is due."""
        if self.version is None or self.asleep:
            self.sync(self.source.version)
        # vLLM draws member m with seed + m
        seeds = [make_row_key(random_key, p.uid, 0) & ((1 << 62) - 1) for p in prompts]
        requests = [
            Request(prompt=p.token_ids, seed=seed, count=group_size) for p, seed in zip(prompts, seeds, strict=True)
        ]
        self._check_lengths(prompts, sampling)
        outputs = self._generate(requests, sampling, top=self.entropy_top)
        if self.check_due and not is_aside():  # there the policy has moved on
            self._check(requests[:1], outputs[:1], sampling)
        ends = (*self.source.eos_token_ids, *self.source.pad_token_ids)
        stripped = list_stripped(self.source.tokenizer, ends, sampling)
        stops = Stops.from_strings(self.source.tokenizer, sampling.stop, ends)
        return [
            Group(prompt=prompt, completions=tuple(self._make_completion(c, stops, stripped) for c in completions))
            for prompt, completions in zip(prompts, outputs, strict=True)
        ]

    def release(self) -> None:
        """Nothing more is sampled before the next ``sync``: free the engine's memory as ``sleep_level`` says."""
        if self.sleep_level and self.transport is not None and not self.asleep:
            self.transport.sleep(self.sleep_level)
            self.asleep = True

    def teardown(self) -> None:
        """Shut the engine down, or leave the servers."""
        if self.transport is not None:
            self.transport.close()
            self.transport = None

    def _start(self) -> Transport:
        """Build the engine or connect to the servers, and let them see the probe under whatever weights they have."""
        with self.source.generation_model() as model:
            self.policy_dtype = str(model.dtype).removeprefix("torch.")
            if self.server.urls:
                from lgrpo_lightning.samplers.vllm.server import Servers

                self.transport = Servers(
                    model, self.server, ranks=self.ranks, adapter=self.source.adapter(), lora=self.engine.lora
                )
            else:
                from lgrpo_lightning.samplers.vllm.engine import InProcessEngine

                longest = max(self.source.longest_sequence, self._probe_length + PROBE_TOKENS)
                self.transport = InProcessEngine(
                    model,
                    self.source.tokenizer,
                    self.engine,
                    longest_sequence=min(longest, self.source.context_length),
                    ranks=self.ranks,
                    adapter=self.source.adapter(),
                    sleeps=self.sleep_level > 0,
                    top=self.entropy_top,
                )
        self.context_length = min(self.transport.max_model_len, self.source.context_length)
        # fills the prefix cache under the first weights: if they are not forgotten later, the check sees it
        self._generate([self._make_probe()], Sampling(max_new_tokens=1))
        return self.transport

    def _generate(self, requests: Sequence[Request], sampling: Sampling, *, top: int = 0) -> list[list[Output]]:
        assert self.transport is not None
        source, eos = self.source, self.source.eos_token_ids
        stops = Stops.from_strings(source.tokenizer, sampling.stop, (*eos, *source.pad_token_ids))
        arguments = make_sampling_arguments(
            sampling,
            (*eos, *stops.token_ids),
            excluded=source.vocabulary.excluded,
            written_out=stops.written_out,
            top=top,
        )
        return self.transport.generate(requests, arguments)

    @property
    def _probe_length(self) -> int:
        """Two blocks of the prefix cache and a token, so that a stale cache shows."""
        return 2 * (self.engine.block_size or CPU_BLOCK) + 1

    def _make_probe(self) -> Request:
        length = min(self._probe_length, self.context_length - PROBE_TOKENS)
        ids = make_probe_prompt(self.source.tokenizer, length=max(1, length), fallback=self.source.eos_token_ids)
        return Request(prompt=ids, seed=0, count=1)

    def _check(self, requests: Sequence[Request], outputs: Sequence[Sequence[Output]], sampling: Sampling) -> None:
        """Compare the probe's and, where there is one, a sampled completion's log-probs with the policy's."""
        assert self.transport is not None and self.version is not None  # noqa: PT018
        self.check_due = False
        probe = self._make_probe()
        short = replace(sampling, max_new_tokens=min(PROBE_TOKENS, sampling.max_new_tokens))
        pairs = [(probe.prompt, self._generate([probe], short)[0][0])]
        pairs += [(request.prompt, group[0]) for request, group in zip(requests, outputs, strict=True)]
        kinds = (self.policy_dtype, self.transport.dtype)
        with isolate_engine(), self.source.generation_model() as model:
            check_completions(
                model,
                pairs,
                sampling,
                vocabulary=self.source.vocabulary,
                tolerance=self.check_tolerance or max(TOLERANCES[kind] for kind in kinds),
                peer=self.transport.peer,
                version=self.version,
            )

    def _check_lengths(self, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        longest = max((len(p.token_ids) for p in prompts), default=0)
        if longest + sampling.max_new_tokens > self.context_length:
            raise UserError(
                f"A prompt of {longest} tokens and sampling.max_new_tokens {sampling.max_new_tokens} do not fit the "
                f"engine's {self.context_length} tokens. Raise sampler.engine.max_model_len (the model allows "
                f"{self.source.context_length}), or lower data.max_prompt_length or sampling.max_new_tokens."
            )

    def _make_completion(self, output: Output, stops: Stops, stripped: frozenset[int]) -> Completion:
        """With no token after a stop string: the engine sees characters later where they are spelled in bytes."""
        assert self.version is not None
        text, ends = decode(self.source.tokenizer, output.token_ids, stripped)
        completion = Completion(
            token_ids=output.token_ids,
            logprobs=torch.tensor(output.logprobs),
            text=text,
            text_ends=ends,
            finish_reason=output.finish_reason,
            mask=torch.ones(len(output.token_ids), dtype=torch.bool),
            weight_version=self.version,
            entropies=None if output.entropies is None else torch.tensor(output.entropies),
        )
        return stops.cut(self.source.tokenizer, completion, stripped)


def find_trainer_ranks() -> tuple[int, int]:
    """(rank, world size) of the trainer; read before an engine initialises torch.distributed for itself."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
