"""Small data sets of prompts with images, and runs on them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lgrpo_lightning import cli
from tests.images.models import write_image_model


def draw(size: tuple[int, int] = (40, 30), seed: int = 0, mode: str = "RGB") -> Image.Image:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of its file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def ask(*parts: Any, text: str = "how many?") -> list[dict[str, Any]]:
    """A chat of one message: image parts, then a text."""
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def write_rows(folder: Path, counts: Sequence[int] = (1, 2, 0, 1, 3, 1, 2, 1)) -> Path:
    """A file of prompts with so many images each, in a folder beside it; ``answer`` is their number."""
    (folder / "pictures").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number, count in enumerate(counts):
        names = [f"pictures/{number}-{i}.png" for i in range(count)]
        for i, name in enumerate(names):
            draw((30 + 20 * i, 50 - 10 * (number % 3)), seed=10 * number + i).save(folder / name)
        rows.append({"prompt": ask(*[{"type": "image"}] * count), "images": names, "answer": str(count)})
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def make_arguments(folder: Path, *options: str, run: str = "run") -> list[str]:
    """The words of ``lgrpo fit`` on the model and the rows in ``folder``."""
    return [
        "fit",
        f"--trainer.default_root_dir={folder / run}",
        f"--model.policy.path={folder / 'model'}",
        f"--data.train={folder / 'rows.jsonl'}",
        "--trainer.max_steps=3",
        "--data.prompts_per_step=4",
        "--model.group_size=3",
        "--model.sampling.max_new_tokens=8",
        "--model.reward_model=RewardFunction",
        "--model.reward_model.function=tests.images.rows.count_images",
        "--model.optimizer.lr=1e-3",
        "--trainer.enable_progress_bar=false",
        "--trainer.limit_val_batches=0",
        *options,
    ]


def fit(
    folder: Path, *options: str, family: str = "gemma3", run: str = "run", counts: Sequence[int] | None = None
) -> int:
    """``lgrpo fit`` of a tiny model on a few images; the exit status."""
    if not (folder / "model").is_dir():
        write_image_model(family, folder / "model")
        write_rows(folder, *(() if counts is None else (counts,)))
    return cli.main(make_arguments(folder, *options, run=run))


def count_images(completions: Any, images: Any, image: Any, answer: list[str], **kwargs: Any) -> list[float]:
    """A letter counts one, and the width of an image a thousandth."""
    assert [str(len(opened)) for opened in images] == answer
    assert all((one is None) == (not several) for one, several in zip(image, images, strict=True))
    widths = [sum(opened.width for opened in several) / 1000 for several in images]
    return [w + c[0]["content"].count("a") for w, c in zip(widths, completions, strict=True)]


def count_letters(completions: Any, **kwargs: Any) -> list[float]:
    """A letter counts one."""
    return [float(completion[0]["content"].count("a")) for completion in completions]


def count_strings(completions: list[str], **kwargs: Any) -> list[float]:
    """A one in a plain completion counts one."""
    return [float(completion.count("1")) for completion in completions]
