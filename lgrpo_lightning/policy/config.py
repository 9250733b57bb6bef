"""The options of ``model.policy``: model, memory, layout and adapter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lgrpo_lightning.errors import UserError, listed, mapped
from lgrpo_lightning.policy.lora import Lora, settle
from lgrpo_lightning.policy.quantization import BYTES, Quantization

ASSETS = Path(__file__).parent / "assets"
BUILTIN = "lgrpo:"
NOT_QUANTISED = (
    "Files that are quantised cannot be trained on. Take the model in float32 or bfloat16: policy.quantization: nf4 "
    "(or int8) quantises it as it is read, under an adapter (policy.lora)."
)


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The trained model and how it computes log-probs.

    Args:
        path: Hugging Face name or folder of a causal language model; ``lgrpo:arithmetic``, the small model that
            comes with this package, or another of its models; or ``lgrpo:smollm2``, SmolLM2-135M-Instruct from the
            extra ``smollm2``.
        revision: Branch, tag or commit on the hub.
        weights: "pretrained" are those at ``path``; "random" are drawn anew by the model's own initialisation, from
            the run's seed: ``path`` then needs a ``config.json`` and no weights.
        tokenizer: Name or folder of the tokenizer where it is not ``path``.
        dtype: Type of the weights in memory. Keep "float32" with mixed precision: the master weights.
        attn_implementation: Attention kernel of transformers.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third slower.
        dropout: Every dropout probability of the model, in the passes that are trained: sampling, old log-probs and
            references have none. 0 is right for RL: the ratio π/π_old is then exactly 1 on the first update.
        micro_batch_tokens: Most tokens, padding included, that one forward pass holds.
        logprob_chunk_mb: Memory that the logits of one chunk of tokens may take (fp32).
        layout: "padded" computes every row in full, "prefix" each prompt once and then its completions, "tree" every
            distinct token of a prompt and its completions once; log-probs and gradients are the same. "auto" takes
            what is estimated to be cheapest.
        compile: "layers" compiles the decoder layers for log-probs and training, "none" runs them eagerly. "auto"
            compiles them on a GPU, where it works.
        verify: Check on the first batch of a run that log-probs equal the model's own, and those of padded rows.
        lora: Train a low-rank adapter in place of all weights.
        quantization: Keep the linear layers of a base model under ``lora`` in 4 bits ("nf4") or 8 ("int8"), quantised
            as they are read. Needs the extra ``quantization``.
        eos_tokens: The tokens that end a completion, as text or ids. Null: those of the generation config, of the
            tokenizer, and the one with which the chat template closes an assistant's turn.
        extra_eos_tokens: Tokens that end a completion too.
        suppress_tokens: Tokens that are never drawn, as text or ids: their probability is 0 in sampling and
            log-probs alike. Those that end a completion may be among them; it is then as long as it may be.
        model_kwargs: Entries to change in the model's ``config.json``, and further arguments of
            ``AutoModelForCausalLM.from_pretrained``, such as ``trust_remote_code``.
        processor_kwargs: Arguments of the processor of images, such as ``max_pixels`` (Qwen) or ``size``: how many
            tokens an image becomes.
    """

    path: str = "lgrpo:arithmetic"
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    tokenizer: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attn_implementation: str = "sdpa"
    gradient_checkpointing: bool = False
    dropout: float = 0.0
    micro_batch_tokens: int = 16384
    logprob_chunk_mb: int = 512
    layout: Literal["auto", "padded", "prefix", "tree"] = "auto"
    compile: Literal["none", "layers", "auto"] = "none"
    verify: bool = True
    lora: Lora | None = None
    quantization: Quantization | None = None
    eos_tokens: list[str | int] | None = None
    extra_eos_tokens: list[str | int] = field(default_factory=list)
    suppress_tokens: list[str | int] = field(default_factory=list)
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    processor_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path:  # null passes the parser
            raise UserError(
                f"model.policy.path is {'null' if self.path is None else 'empty'}; it must be the name or folder of a "
                "model, such as Qwen/Qwen2.5-0.5B-Instruct."
            )
        for key in ("eos_tokens", "extra_eos_tokens", "suppress_tokens"):
            if (tokens := getattr(self, key)) is not None:
                listed(f"policy.{key}", tokens, of=(str, int))
        if self.eos_tokens is not None and not self.eos_tokens:
            raise UserError(
                "policy.eos_tokens is empty: no completion would end before sampling.max_new_tokens. Leave it out "
                "for those of the model, its tokenizer and its chat template."
            )
        if self.weights not in ("pretrained", "random"):
            raise UserError(f"policy.weights is {self.weights!r}; possible are 'pretrained' and 'random'.")
        mapped("policy.model_kwargs", self.model_kwargs)
        mapped("policy.processor_kwargs", self.processor_kwargs)
        if self.micro_batch_tokens < 1 or self.logprob_chunk_mb < 1:
            raise UserError("policy.micro_batch_tokens and policy.logprob_chunk_mb must be at least 1.")
        if quantised := sorted(k for k in self.model_kwargs if k.startswith(("load_in_", "quantization"))):
            raise UserError(
                f"policy.model_kwargs has {', '.join(quantised)}. Use policy.quantization: nf4 (4 bits) or int8 (8)."
            )
        self._check_quantization()
        if not 0 <= self.dropout < 1:
            raise UserError(f"policy.dropout is {self.dropout}; it must be at least 0 and below 1.")
        if self.lora is not None:
            object.__setattr__(self, "lora", settle(self.lora))

    def _check_quantization(self) -> None:
        if self.quantization is None:
            return
        chosen = f"policy.quantization is {self.quantization!r}"
        if self.quantization not in BYTES:
            raise UserError(f"{chosen}; possible are 'nf4', 'int8' and null.")
        if self.lora is None:
            raise UserError(
                f"{chosen}, and quantised weights cannot be trained: an adapter beside them can. Set policy.lora: "
                "{rank: 16}, or policy.quantization: null."
            )
        if self.compile != "none":
            raise UserError(
                f"{chosen}, and policy.compile is {self.compile!r}: quantised layers are not compiled. Use none."
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> PolicyConfig:
        """The options of ``model.policy``."""
        lora = options.get("lora")
        return cls(**{**options, "lora": Lora(**lora) if lora else None})

    @property
    def trust_remote_code(self) -> bool:
        """Whether the model's own code may run: only if ``model_kwargs`` allows it."""
        return bool(self.model_kwargs.get("trust_remote_code", False))

    @property
    def resolved_path(self) -> str:
        """``path`` with ``lgrpo:`` names turned into the folder inside this package; a folder's whole path."""
        return _resolve(self.path)

    @property
    def resolved_tokenizer(self) -> str:
        """Where the tokenizer is loaded from."""
        return _resolve(self.tokenizer or self.path)


def _resolve(path: str) -> str:
    if not path.startswith(BUILTIN):
        return os.path.abspath(path) if os.path.isdir(path) else path
    if path == f"{BUILTIN}smollm2":
        from lgrpo_lightning.policy.smollm2 import prepare_smollm2

        return str(prepare_smollm2())
    folder = ASSETS / path.removeprefix(BUILTIN)
    if not (folder / "config.json").is_file():
        known = [*sorted(BUILTIN + p.parent.name for p in ASSETS.glob("*/config.json")), f"{BUILTIN}smollm2"]
        raise UserError(f"policy.path is {path!r}; the models in this package are {', '.join(known)}.")
    return str(folder)
