"""Prompts with images as the model reads them: the processor of transformers, and its tensors for a pass."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.images import ImageFile, ImageTokens
from lgrpo_lightning.policy.config import PolicyConfig
from lgrpo_lightning.policy.loading import load_config
from lgrpo_lightning.policy.refusals import explain_load_errors

KEPT = 2**28
"""Bytes of tensors that are kept for the passes to come."""


class PromptProcessor:
    """The processor of a model of text and images. It is loaded when the first prompt with images comes.

    Args:
        config: Says which model; ``processor_kwargs`` are the arguments of each call of its processor.
    """

    def __init__(self, config: PolicyConfig) -> None:
        self.config = config
        self._kept: OrderedDict[tuple[str, tuple[ImageFile, ...]], dict[str, Tensor]] = OrderedDict()

    def __deepcopy__(self, memo: Any) -> PromptProcessor:
        return self  # it changes nothing that others see

    @cached_property
    def _hf_config(self) -> Any:
        return load_config(self.config)

    @property
    def available(self) -> bool:
        """Whether the model reads images."""
        return hasattr(self._hf_config, "vision_config")

    @cached_property
    def hf_processor(self) -> Any:
        """The processor of transformers.

        Raises:
            ValueError: The model reads no images, or its processor cannot be loaded.
        """
        hf_config, config = self._hf_config, self.config
        if not self.available:
            raise UserError(
                f"policy.path is {config.path!r}, of type {hf_config.model_type}, which reads text only. Take "
                "one of text and images, such as Qwen/Qwen2.5-VL-3B-Instruct, or leave the images out of the data."
            )
        path = config.resolved_path
        options = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        with explain_load_errors("policy.path", config.path, path):
            return load_processor(path, hf_config, **options)

    @property
    def placeholder(self) -> str:
        """What stands for an image in a text."""
        return str(self.hf_processor.image_token)

    @cached_property
    def placeholder_ids(self) -> tuple[int, ...]:
        """The tokens that the model replaces by images: a completion must have none."""
        named = getattr(self._hf_config, "image_token_id", None)
        return tuple({int(i) for i in (*getattr(self.hf_processor, "image_token_ids", ()), named) if i is not None})

    def encode(self, text: str, images: Sequence[ImageFile]) -> tuple[int, ...]:
        """The token ids of a prompt.

        Raises:
            ValueError: There are more or fewer images than placeholders, or the processor refuses an image.
        """
        return tuple(self._process(text, tuple(images))["input_ids"][0].tolist())

    def make_inputs(
        self, prompts: Sequence[Sequence[int]], *, starts: Sequence[int], width: int, device: torch.device | str
    ) -> dict[str, Tensor]:
        """What a pass is given of the images in its rows: empty if there are none.

        Images of several prompts are concatenated, and filled up with zeros where they differ in size. What the
        processor says of each token becomes ``[rows, width]``.

        Args:
            prompts: Of each row.
            starts: Columns at which they start.
        """
        rows = [self._read(p) if isinstance(p, ImageTokens) else {} for p in prompts]
        inputs: dict[str, Tensor] = {}
        for name in dict.fromkeys(name for row in rows for name in row if name not in ("input_ids", "attention_mask")):
            parts = [(at, row[name]) for at, row in zip(starts, rows, strict=True) if name in row]
            if _is_of_tokens(name, rows):
                joined = parts[0][1].new_zeros(len(rows), width)
                for into, at, row in zip(joined, starts, rows, strict=True):
                    if name in row:
                        into[at : at + row[name].shape[1]] = row[name][0]
            else:
                joined = join_images([part for _, part in parts])
            inputs[name] = joined.to(device)
        return inputs

    def _read(self, prompt: ImageTokens) -> dict[str, Tensor]:
        """The tensors of a prompt.

        Raises:
            ValueError: Its token ids were made otherwise.
        """
        tensors = self._process(prompt.text, prompt.images)
        ids = tensors["input_ids"][0].tolist()
        if ids != list(prompt.token_ids[: len(ids)]):
            raise UserError(
                f"{self.config.path!r} reads {prompt.text!r} with {len(prompt.images)} images as other token ids than "
                "the prompt has. A teacher needs the policy's own processor; and an image must not change in a run."
            )
        return tensors

    def _process(self, text: str, images: tuple[ImageFile, ...]) -> dict[str, Tensor]:
        key = text, images
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        tensors = self._kept[key] = self._call(text, images)
        while len(self._kept) > 1 and sum(count_bytes(kept) for kept in self._kept.values()) > KEPT:
            self._kept.popitem(last=False)
        return tensors

    def _call(self, text: str, images: tuple[ImageFile, ...]) -> dict[str, Tensor]:
        processor, bos = self.hf_processor, self.hf_processor.tokenizer.bos_token
        # as apply_chat_template of processors: a template may write the beginning of sequence itself
        more = {"add_special_tokens": False} if bos is not None and text.startswith(bos) else {}
        opened = [_open(image, number) for number, image in enumerate(images)]
        if (found := text.count(self.placeholder)) != len(images):
            raise UserError(f"there are {len(images)} images and {found} placeholders {self.placeholder!r} for them")
        try:
            tensors = processor(
                text=[text], images=[opened], return_tensors="pt", **more, **self.config.processor_kwargs
            )
        except Exception as error:  # of whatever an image, or an option, makes a processor raise
            sizes = ", ".join(f"{image.width} x {image.height}" for image in opened)
            raise UserError(
                f"{type(processor).__name__} refuses it, with images of {sizes} ({type(error).__name__}: {error})"
            ) from error
        return dict(tensors)


def load_processor(path: str, hf_config: Any, **options: Any) -> Any:
    """The processor at ``path``.

    The part for videos, which some processors have, needs torchvision. Without torchvision they are made without it.
    """
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    kind = PROCESSOR_MAPPING.get(type(hf_config), None)
    if find_spec("torchvision") or kind is None or "video_processor" not in kind.get_attributes():
        return AutoProcessor.from_pretrained(path, **options)
    kind = make_without_video(kind)
    makers = {
        "image_processor": AutoImageProcessor.from_pretrained,
        "tokenizer": AutoTokenizer.from_pretrained,
        "video_processor": lambda *_, **__: make_no_video(),
    }
    rest, _ = kind.get_processor_dict(path, **options)
    return kind.from_args_and_dict([makers[name](path, **options) for name in kind.get_attributes()], rest)


def make_without_video(processor_class: Any) -> Any:
    """``processor_class`` that takes whatever it is given for its parts."""
    return type(processor_class.__name__, (processor_class,), {"check_argument_for_proper_class": lambda *_: None})


def make_no_video() -> Any:
    """Stands for the part of a processor that reads videos."""
    from transformers.video_processing_utils import VideoProcessorMixin

    made = VideoProcessorMixin()
    made.num_frames = made.fps = None  # SmolVLM's chat template is given these
    return made


def join_images(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors of images, patches or prompts over the first dimension; zeros fill the others up.

    >>> join_images([torch.ones(1, 2), torch.ones(2, 1)]).tolist()
    [[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    """
    sizes = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    filled = []
    for part in parts:
        lacking = [(0, size - own) for size, own in zip(sizes, part.shape[1:], strict=True)]
        filled.append(pad(part, [n for pair in reversed(lacking) for n in pair]))
    return torch.cat(filled)


def count_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _open(image: ImageFile, number: int) -> Any:
    try:
        return image.open()
    except UserError as error:
        raise UserError(f"image {number} ({image.path}): {error}.") from error


def _is_of_tokens(name: str, rows: Sequence[Mapping[str, Tensor]]) -> bool:
    """Whether a tensor has an entry for each token of its prompt."""
    return all(row[name].shape == row["input_ids"].shape for row in rows if name in row)
