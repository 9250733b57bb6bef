"""Everything that is tried of one architecture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.choice import LayoutName, explain_unsupported
from lgrpo_lightning.policy.export import export
from lgrpo_lightning.policy.lora import Lora
from lgrpo_lightning.policy.merging import unties
from lgrpo_lightning.policy.multimodal import choose_auto_class
from lgrpo_lightning.policy.source import rename_as_stored
from lgrpo_lightning.policy.training_noise import set_training_noise
from lgrpo_lightning.policy.verification import verify
from lgrpo_lightning.samplers.decoding import Decoded, Decoding, Request
from lgrpo_lightning.types import pad
from tests.architectures.tiny import tiny
from tests.models import far_from_uniform, tokenizer

EXACT = 1e-4
STEPS = 5
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12]]

DRAFTER = "The model is a drafter for speculative decoding and reads the states of another model."
NOT_TRIED = {
    "gemma4_assistant": DRAFTER,
    "gemma4_unified_assistant": DRAFTER,
    "musicgen": "The model generates sound from text.",
    "musicgen_melody": "The model generates sound from text.",
    "shieldgemma2": "The model classifies images.",
}
"""Model type → why no language model can be made of it."""


def write_model(model_type: str, folder: Path) -> None:
    """A tiny model of ``model_type`` with random weights, far from uniform, and a tokenizer."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = tiny(CONFIG_MAPPING[model_type])
    set_training_noise(config, 0.0)
    torch.manual_seed(0)
    model = choose_auto_class(config).from_config(config)
    far_from_uniform(model, 3)
    model.float().save_pretrained(folder)
    tokenizer().save_pretrained(folder)


class Trial:
    """One architecture: each method is a column of the table and answers with what is to be written there.

    Args:
        folder: Of a tiny model.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, **options: Any) -> Policy:
        """The model with what ``options`` say."""
        return Policy(PolicyConfig(path=str(self.folder), **options))

    @cached_property
    def policy(self) -> Policy:
        """The model as it is."""
        return self.load()

    @cached_property
    def group(self) -> tuple[list[list[int]], list[tuple[int, ...]], Tensor]:
        """Six completions of two prompts, and their log-probs when sampled."""
        prompts, found = drawn(self.policy)
        completions = [d.token_ids for d in found]
        return prompts, completions, pad([d.logprobs for d in found], max(map(len, completions)))

    def sampled(self) -> str:
        """How far sampled and scored log-probs are from the model's own."""
        prompts, completions, sampled = self.group
        rows = zip(prompts, completions, strict=True)
        own = pad([own_logprobs(self.policy, p, c) for p, c in rows], sampled.shape[1])
        self.policy.choose_layout(prompts, completions)
        first = max(map(len, completions[:3]))
        verify(self.policy, prompts[:3], completions[:3], sampled=sampled[:3, :first])
        with torch.no_grad():
            scored = self.policy(prompts, completions, layout="padded").logprobs
        return within(max(largest(sampled, own), largest(scored, own)), EXACT)

    def trees(self) -> str:
        """How far log-probs and gradients of trees are from those of padded rows, or why there are none."""
        return self.compare("tree")

    def prefix(self) -> str:
        """How far log-probs and gradients with prompts computed once are from those of padded rows."""
        return self.compare("prefix")

    def compare(self, layout: LayoutName) -> str:
        """The largest difference of log-probs, or of gradients relative to the largest, to padded rows."""
        unsupported = explain_unsupported(self.policy.model, checkpointing=False)
        if layout in unsupported:
            return f"no: {unsupported[layout]}"
        prompts, completions, _ = self.group
        with torch.no_grad():
            other, rows = (self.policy(prompts, completions, layout=x).logprobs for x in (layout, "padded"))
        if not (difference := largest(other, rows)) <= EXACT:
            return within(difference, EXACT)
        of_layout, of_rows = (self.gradients(self.policy, x) for x in (layout, "padded"))
        scale = max(float(g.abs().max()) for g in of_rows.values())
        zeros = {n: torch.zeros_like(g) for n, g in of_rows.items()}
        found = zeros | of_layout
        return within(max(difference, *(largest(found[n], g) / scale for n, g in of_rows.items())), EXACT)

    def checkpointing(self) -> str:
        """How far gradients with recomputed activations are from those without."""
        with_it, without = self.gradients(self.load(gradient_checkpointing=True)), self.gradients(self.policy)
        scale = max(float(g.abs().max()) for g in without.values())
        return within(max(largest(with_it[n], g) for n, g in without.items()) / scale, EXACT)

    def trained(self) -> str:
        """Five steps move the weights; the exported model continues prompts as the trained one."""
        policy = self.load()
        before = {n: p.detach().clone() for n, p in policy.named_parameters()}
        self.step(policy, STEPS)
        moved = [n for n, p in policy.named_parameters() if not torch.equal(p, before[n])]
        trained = [n for n, p in policy.named_parameters() if p.requires_grad]
        if len(moved) < 0.5 * len(trained):
            return f"no: {len(moved)} of {len(trained)} weights moved"
        return self.exported(policy)

    def lora(self) -> str:
        """An adapter trains; merged and exported, the model continues prompts as with it."""
        policy = self.load(lora=Lora(rank=2))
        self.step(policy, 2)
        return self.exported(policy)

    def names(self) -> str:
        """Weights handed to an engine have the names and values of a checkpoint's files."""
        from safetensors.torch import load_file

        files = {n: t for f in self.folder.glob("*.safetensors") for n, t in load_file(f).items()}
        handed = dict(rename_as_stored(self.policy.model, self.policy.model.state_dict().items()))
        if lacking := sorted(files.keys() - handed.keys()):
            return f"no: {lacking[0]} is not handed over"
        wrong = [n for n, t in files.items() if not torch.equal(t.float(), handed[n].float())]
        return f"no: {wrong[0]} differs" if wrong else "yes"

    def gradients(self, policy: Policy, layout: LayoutName = "padded") -> dict[str, Tensor]:
        """Of the sum of log-probs, by name."""
        prompts, completions, _ = self.group
        policy.train().zero_grad()
        policy(prompts, completions, layout=layout).logprobs.sum().backward()
        return {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}

    def step(self, policy: Policy, times: int) -> None:
        """A few steps of Adam that make the completions likelier."""
        prompts, completions, _ = self.group
        optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], 1e-2)
        for _ in range(times):
            optimizer.zero_grad()
            (-policy(prompts, completions, layout="padded").logprobs.mean()).backward()
            optimizer.step()

    def exported(self, policy: Policy) -> str:
        """Whether the model in an exported folder says what ``policy`` says, and nothing of it was left out."""
        out = self.folder.parent / f"out-{'lora' if policy.config.lora else 'all'}"
        export(policy, tokenizer(), out)
        loaded = Policy(PolicyConfig(path=str(out)))
        ours, theirs = ({n for n, _ in p.model.named_parameters()} for p in (self.policy, loaded))
        if (changed := ours ^ theirs) and not unties(policy.model):
            return f"no: {min(changed)} is not there on both sides"
        if greedy(loaded) != greedy(policy):
            return "no: other text after loading"
        prompts, completions, _ = self.group
        with torch.no_grad():
            live, read = (p.eval()(prompts, completions, layout="padded").logprobs for p in (policy, loaded))
        return within(largest(live, read), EXACT)


COLUMNS: dict[str, Callable[[Trial], str]] = {
    "sampled": Trial.sampled,
    "trees": Trial.trees,
    "prefix": Trial.prefix,
    "checkpointing": Trial.checkpointing,
    "trained": Trial.trained,
    "lora": Trial.lora,
    "names": Trial.names,
}


def try_all(model_type: str, folder: Path, out: Path) -> None:
    """Write a line of JSON a column to ``out``: the answer, or the error; nothing after a model that cannot be made."""
    with out.open("a") as file:

        def say(column: str, answer: str) -> None:
            print(json.dumps({"column": column, "answer": answer}), file=file, flush=True)

        try:
            write_model(model_type, folder)
        except Exception as error:
            say("made", f"{type(error).__name__}: {error}")
            return
        trial = Trial(folder)
        for column, method in COLUMNS.items():
            try:
                say(column, method(trial))
            except Exception as error:
                say(column, f"{type(error).__name__}: {error}")
                if column == "sampled":
                    return


def drawn(policy: Policy) -> tuple[list[list[int]], list[Decoded]]:
    """Three completions of each prompt, some of which end early: the cache is repeated, padded and compacted."""
    requests = [Request(prompt=i // 3, key=i * 7919) for i in range(6)]
    with policy.generation_model() as model:
        found = Decoding(model, None, tuple(range(1, 6)), Sampling(max_new_tokens=12)).run(PROMPTS, requests)
    return [PROMPTS[r.prompt] for r in requests], found


def own_logprobs(policy: Policy, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """Log-probs from the model's own logits, one row without padding."""
    with torch.no_grad():
        logits = policy.model.eval()(torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0].float()
    at = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return at.gather(1, torch.tensor([completion]).T).squeeze(1)


def greedy(policy: Policy) -> list[int]:
    """Sixteen likeliest tokens after a prompt."""
    with policy.generation_model() as model:
        decoding = Decoding(model, None, (1,), Sampling(max_new_tokens=16, temperature=0.0))
        return list(decoding.run(PROMPTS[:1], [Request(prompt=0, key=1)])[0].token_ids)


def largest(one: Tensor, other: Tensor) -> float:
    """The largest difference; NaN where there is one."""
    return float((one - other).abs().max())


def within(difference: float, allowed: float) -> str:
    """The difference as text, and "no" in front where it is too large."""
    return f"{difference:.0e}" if difference <= allowed else f"no: differ by {difference:.2g}"
