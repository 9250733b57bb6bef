"""The table of models with images of docs/data.md: ``python -m tests.images``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import transformers as hf
from torch import Tensor

from tests.images.models import FAMILIES, FURTHER
from tests.images.test_families import Family, compute_gradients, compute_own_logprobs, differ, draw_completions


def describe(name: str, folder: Path) -> str:
    """The row of a model type: the largest differences of log-probs, and of gradients relative to the largest."""
    family = Family(name, folder)
    model = hf.AutoModelForImageTextToText.from_pretrained(folder / "model", attn_implementation="eager").eval()
    rows = zip(*family.rows, strict=True)
    own: Sequence[Tensor] = [compute_own_logprobs(model, family.processor.hf_processor, p, c) for p, c in rows]
    found = [differ(family.score(layout), own) for layout in ("padded", "prefix")]
    drawn, sampled = draw_completions(family, range(len(family.prompts)))
    found.append(differ(family.score("padded", drawn), sampled))
    padded, prefix = (compute_gradients(family, layout) for layout in ("padded", "prefix"))
    scale = max(float(gradient.abs().max()) for gradient in padded.values())
    found.append(max(float((prefix[n] - g).abs().max()) for n, g in padded.items()) / scale)
    return f"| `{name}` | {' | '.join(f'{difference:.0e}' for difference in found)} |"


if __name__ == "__main__":
    for name in sorted(FAMILIES | FURTHER):
        with tempfile.TemporaryDirectory() as folder:
            print(describe(name, Path(folder)), flush=True)
