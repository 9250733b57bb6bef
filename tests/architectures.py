"""Tries tiny models of many families and writes docs/models.md.

    python -m tests.architectures

Each with random weights: six completions of two prompts are sampled, scored, and compared with the model's own
log-probs; then trees are compared with padded rows. A family that is refused is listed with the refusal.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
import transformers

from lgrpo_lightning.types import padded
from tests.families import FAMILIES, drawn, family_policy

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
INTRODUCTION = """
Causal language models of transformers that keep what they have read in transformers' cache can be sampled from and
trained. `policy.verify` compares the log-probs of the first group with the model's own, and sampled with scored ones,
before the first update, so that no family is silently wrong. Models of attention alone (Llama, Qwen2, Qwen3, Mistral,
Gemma 2 and 3, Granite, …) can also be trained over trees. The families below have recurrent or convolutional layers,
experts, or parts of their own; they were tried with tiny random weights.
""".strip()


def tried(family: str) -> tuple[str, str, str]:
    """(how far sampled and own log-probs differ, the layout of ``auto``, why) or the refusal."""
    policy = family_policy(family)
    try:
        prompts, found = drawn(policy)
        completions = [d.token_ids for d in found]
        sampled = padded([d.logprobs for d in found], max(map(len, completions)))
        chosen = policy.choose_layout(prompts, completions)
        policy.verify(prompts[:3], completions[:3], sampled=sampled[:3])
        if policy.no_tree:
            chosen = policy.choose_layout(prompts, completions)
        with torch.no_grad():
            scored = policy(prompts, completions).logprobs
    except (ValueError, RuntimeError) as error:
        return "refused", "", str(error)
    reason = chosen.reason if chosen.layout == "padded" else ""
    return f"{float((scored - sampled).abs().max()):.0e}", chosen.layout, reason


def row(family: str) -> str:
    """A line of the table."""
    config = getattr(transformers, FAMILIES[family][0])
    return f"| `{config.model_type}` | " + " | ".join(tried(family)) + " |"


def page() -> Iterator[str]:
    """The lines of docs/models.md."""
    yield "# Models"
    yield ""
    yield from INTRODUCTION.splitlines()
    yield f"Tried on {datetime.date.today()}, torch {version('torch')}, transformers {version('transformers')}, by"
    yield "`python -m tests.architectures`."
    yield ""
    yield "| model type | sampled and scored differ by | layout of `auto` | why not trees, or why refused |"
    yield "|---|---|---|---|"
    yield from map(row, sorted(FAMILIES))
    yield ""
    yield "`padded` costs what shared prompts save; numbers are the same."


def main() -> None:
    """Write the page."""
    PAGE.write_text("\n".join(page()) + "\n")


if __name__ == "__main__":
    main()
