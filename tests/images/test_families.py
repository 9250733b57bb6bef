"""Log-probs, gradients and samples of prompts with images, for tiny models of several families."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from torch import Tensor

from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.images import ImageFile, ImageTokens
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.packing import count_prefix_tokens
from lgrpo_lightning.policy.processor import PromptProcessor
from lgrpo_lightning.samplers.decoding import Decoding, Request
from tests.images.models import FAMILIES, FURTHER, write_image_model

SIZES = [[(60, 30), (100, 100)], [(40, 40)], [(33, 120)], [], [(50, 20)] * 3]
"""Sizes of the images of each prompt: one, several, of several sizes, none."""
COMPLETIONS = [[5, 6, 7], [8, 9], [3]]
NEEDS = {"smolvlm": "num2words"}
LACKING = {name: package for name, package in NEEDS.items() if not find_spec(package)}
FAMILY = [
    pytest.param(name, marks=pytest.mark.skipif(name in LACKING, reason=f"needs {LACKING.get(name)}"))
    for name in FAMILIES
] + [pytest.param(name, marks=pytest.mark.slow) for name in FURTHER]


def draw_image(folder: Path, name: str, size: tuple[int, int], seed: int) -> ImageFile:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.png")
    return ImageFile(path=str(folder / f"{name}.png"), digest=f"{name}-{seed}")


def make_prompts(processor: PromptProcessor, folder: Path, seed: int = 0) -> list[Sequence[int]]:
    """A prompt for each entry of ``SIZES``, of different lengths."""
    prompts: list[Sequence[int]] = []
    for number, sizes in enumerate(SIZES):
        images = tuple(draw_image(folder, f"{number}-{i}", size, seed + i) for i, size in enumerate(sizes))
        parts = [
            part for _ in images for part in ({"type": "image"}, {"type": "text", "text": "what is it?"[: 2 + number]})
        ]
        messages = [{"role": "user", "content": parts or [{"type": "text", "text": "hello"}]}]
        text = processor.hf_processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = processor.encode(text, images) if images else tuple(processor.hf_processor.tokenizer(text)["input_ids"])
        prompts.append(ImageTokens(ids, text, images) if images else ids)
    return prompts


@torch.no_grad()
def compute_own_logprobs(model: Any, processor: Any, prompt: Sequence[int], completion: list[int]) -> Tensor:
    """By the model's own forward pass over the processor's own tensors, with the positions that it numbers itself."""
    tensors: dict[str, Tensor] = {"input_ids": torch.tensor([list(prompt)])}
    if isinstance(prompt, ImageTokens):
        images = [image.open() for image in prompt.images]
        tensors = dict(processor(text=[prompt.text], images=[images], return_tensors="pt"))
        assert tensors["input_ids"][0].tolist() == list(prompt)
    shape, more = tensors["input_ids"].shape, torch.tensor([completion])
    ids = torch.cat([tensors.pop("input_ids"), more], dim=1)
    tensors = {n: torch.cat([t, torch.zeros_like(more)], 1) if t.shape == shape else t for n, t in tensors.items()}
    tensors["attention_mask"] = torch.ones_like(ids)
    logits = model(input_ids=ids, use_cache=False, **tensors).logits[0, shape[1] - 1 : -1]
    return logits.log_softmax(-1).gather(1, more.T)[:, 0]


def differ(found: Tensor, expected: Sequence[Tensor]) -> float:
    return max(float((row[: len(own)] - own).abs().max()) for row, own in zip(found, expected, strict=True))


class Family:
    def __init__(self, name: str, folder: Path) -> None:
        write_image_model(name, folder / "model")
        self.policy = Policy(PolicyConfig(path=str(folder / "model")), reads_images=True).eval()
        self.processor = self.policy.processor
        self.prompts = make_prompts(self.processor, folder)
        self.rows = [p for p in self.prompts for _ in COMPLETIONS], [c for _ in self.prompts for c in COMPLETIONS]

    def score(self, layout: Any, rows: Any = None) -> Tensor:
        with torch.no_grad():
            return self.policy(*(rows or self.rows), layout=layout).logprobs


@pytest.fixture(scope="module", params=FAMILY)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp(request.param))


def test_logprobs_are_the_models_own(family: Family) -> None:
    path = family.policy.config.path
    model = hf.AutoModelForImageTextToText.from_pretrained(path, attn_implementation="eager").eval()
    rows = zip(*family.rows, strict=True)
    own = [compute_own_logprobs(model, family.processor.hf_processor, prompt, c) for prompt, c in rows]
    for layout in ("padded", "prefix"):
        assert differ(family.score(layout), own) < 1e-5


def test_logprobs_depend_on_the_images(family: Family, tmp_path: Path) -> None:
    others = make_prompts(family.processor, tmp_path, seed=7)
    before, after = (
        family.score("padded"),
        family.score("padded", ([p for p in others for _ in COMPLETIONS], family.rows[1])),
    )
    moved = (before - after).abs().amax(-1) > 1e-4
    assert moved.tolist() == [bool(sizes) for sizes in SIZES for _ in COMPLETIONS]


def test_prompts_that_differ_in_their_images_alone_are_not_one(family: Family, tmp_path: Path) -> None:
    other = make_prompts(family.processor, tmp_path, seed=7)[1]
    assert list(other) == list(family.prompts[1])
    rows = [family.prompts[1], other, family.prompts[1]], [[5, 6], [5, 6], [7]]
    assert differ(family.score("prefix", rows), list(family.score("padded", rows))) < 1e-5
    assert count_prefix_tokens(*rows) == 2 * len(other) + 5


def compute_gradients(family: Family, layout: Any) -> dict[str, Tensor]:
    """Of the sum of log-probs, by name."""
    family.policy.zero_grad()
    family.policy(*family.rows, layout=layout).logprobs.sum().backward()
    return {n: p.grad.clone() for n, p in family.policy.named_parameters() if p.grad is not None}


def test_gradients_of_both_layouts_are_the_same(family: Family) -> None:
    padded, prefix = (compute_gradients(family, layout) for layout in ("padded", "prefix"))
    scale = max(float(gradient.abs().max()) for gradient in padded.values())
    assert padded.keys() == prefix.keys()
    assert max(float((prefix[n] - g).abs().max()) for n, g in padded.items()) < 1e-5 * scale


def draw_completions(family: Family, used: Sequence[int]) -> tuple[Any, list[Tensor]]:
    """((Prompts, completions), their log-probs when sampled), three of each prompt."""
    tokenizer, policy = family.processor.hf_processor.tokenizer, family.policy
    policy.restrict(tokenizer, (1,))
    prompts = [family.prompts[i] for i in used]
    requests = [Request(prompt=p, key=31 * p + member) for p in range(len(prompts)) for member in range(3)]
    options: dict[str, Any] = {"vocabulary": policy.vocabulary, "reader": family.processor}
    with policy.generation_model() as model:
        drawn = Decoding(model, tokenizer, [1], Sampling(max_new_tokens=8), **options).run(prompts, requests)
    rows = [prompts[r.prompt] for r in requests], [list(d.token_ids) for d in drawn]
    return rows, [d.logprobs for d in drawn]


@pytest.mark.parametrize("used", [(0, 1, 2, 3, 4), (1,), (3, 0)])
def test_sampled_logprobs_are_the_scored_ones(family: Family, used: tuple[int, ...]) -> None:
    rows, sampled = draw_completions(family, used)
    for layout in ("padded", "prefix"):
        assert differ(family.score(layout, rows), sampled) < 1e-5
    assert not {i for ids in rows[1] for i in ids} & {*family.processor.placeholder_ids}


def test_tensors_of_several_prompts_are_those_of_the_processors_own_batch(family: Family) -> None:
    prompts = [p for p in family.prompts if isinstance(p, ImageTokens)]
    images = [[image.open() for image in p.images] for p in prompts]
    batch = family.processor.hf_processor(
        text=[p.text for p in prompts], images=images, return_tensors="pt", padding=True, padding_side="right"
    )
    width = batch["input_ids"].shape[1]
    made = family.processor.make_inputs(prompts, starts=[0] * len(prompts), width=width, device="cpu")
    assert made.keys() == batch.keys() - {"input_ids", "attention_mask"}
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, batch[name].to(tensor.dtype), rtol=0, atol=0)


def test_a_tree_is_refused(family: Family) -> None:
    with pytest.raises(ValueError, match=r"policy\.layout is 'tree', but a tree gives each token one position"):
        family.score("tree")
    assert "one position" in family.policy.unsupported["tree"]
