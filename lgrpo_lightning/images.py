"""Images of prompts, as references: pixels are read where they are needed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, overload

from lgrpo_lightning.errors import MissingPackageError, UserError

MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
"""Modes of Pillow with at most eight bits a channel."""
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats of files that are opened. Pillow reads others, EPS with the program Ghostscript."""
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, struct.error, zlib.error)
"""What Pillow raises of a file that is cut or damaged."""


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image in a file.

    Attributes:
        path: Absolute path of the file.
        digest: Beginning of the SHA-256 of its bytes.

    >>> str(ImageFile(path="/data/cat.png", digest="9f86d081884c7d65"))
    '/data/cat.png'
    """

    path: str
    digest: str

    def __str__(self) -> str:
        return self.path

    def open(self) -> Any:
        """The image as ``PIL.Image.Image`` in RGB, turned as its EXIF data say, transparent parts on white.

        Raises:
            ValueError: The file is not there, cannot be read, or is an animation or has more than 8 bits a channel.
        """
        return to_rgb(open_image(self.path))


@dataclass(frozen=True)
class ImageTokens(Sequence[int]):
    """The token ids of a prompt with images. Two are equal only if their images are, too.

    Attributes:
        token_ids: Each image is as many placeholder tokens as the model reads of it. More tokens than ``text`` gives
            may follow.
        text: The prompt with one placeholder per image.
        images: In the order of the placeholders.
    """

    token_ids: tuple[int, ...]
    text: str
    images: tuple[ImageFile, ...]

    def __len__(self) -> int:
        return len(self.token_ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.token_ids)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...

    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        return self.token_ids[index]


class OpenedImages(Sequence[Any]):
    """Images, or lists of images, of which each is opened when it is asked for; what is no image stays as it is."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        item = self.items[index]
        return item.open() if isinstance(item, ImageFile) else OpenedImages(item) if isinstance(item, tuple) else item


def open_image(file: Any, *, max_pixels: int | None = None) -> Any:
    """The image in a file, or in a file object, as ``PIL.Image.Image`` that is not decoded yet.

    Raises:
        ValueError: It cannot be read, or ``check_image`` refuses it.
        ImportError: Pillow is not installed.
    """
    if find_spec("PIL") is None:
        raise MissingPackageError('Prompts with images need Pillow: pip install "lgrpo_lightning[images]"')
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(file, formats=[name for name in FORMATS if name != "MPO"])  # which JPEG opens
    except FileNotFoundError as error:
        raise UserError("there is no such file") from error
    except UnidentifiedImageError as error:
        raise UserError(f"its bytes are no image of the formats {', '.join(FORMATS)}") from error
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise UserError(f"it cannot be read ({type(error).__name__}: {error})") from error
    check_image(image, max_pixels=max_pixels)
    return image


def check_image(image: Any, *, max_pixels: int | None = None) -> None:
    """Refuse an image of Pillow that is too large, moves, or has more than 8 bits a channel, whose range nobody knows.

    Raises:
        ValueError: With the reason.
    """
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise UserError(
            f"it has {image.width} x {image.height} pixels; at most {max_pixels:,} are possible. Make it smaller, or "
            "raise data.images.max_pixels"
        )
    if image.format not in (None, *FORMATS):
        raise UserError(f"its format is {image.format}; possible are {', '.join(FORMATS)}")
    if image.mode not in MODES:
        raise UserError(f"its pixels are of mode {image.mode!r}, with more than 8 bits a channel. Save it as 8-bit RGB")
    try:
        frames = getattr(image, "n_frames", 1)
    except UNREADABLE as error:
        raise UserError(f"it cannot be read ({type(error).__name__}: {error})") from error
    if frames > 1 and image.format != "MPO":  # of a camera, which puts a small copy beside the image
        raise UserError(f"it is an animation, or a file of {frames} pages. Save the one that is meant")


def to_rgb(image: Any) -> Any:
    """An image of Pillow, decoded, in RGB, turned as its EXIF data say, transparent parts on white.

    Raises:
        ValueError: It cannot be decoded.
    """
    from PIL import Image, ImageOps

    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except UNREADABLE as error:
        raise UserError(f"it cannot be decoded ({type(error).__name__}: {error})") from error
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
