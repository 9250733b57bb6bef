"""The images of a data row, found, checked and kept as files."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import has_magic
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from lgrpo_lightning.errors import UserError, require
from lgrpo_lightning.images import ImageFile, check_image, open_image, to_rgb
from lgrpo_lightning.types import Message

COLUMNS = ("image", "images")
PARTS = ("image", "image_url")
"""Types of parts of a message that are images; the second is OpenAI's."""
KEYS = ("bytes", "base64", "image", "path", "url", "image_url")
"""Where a part, or what it holds, has its image: the first of these counts."""
DOWNLOADED = 2**27
"""Most bytes of an image that is downloaded."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Which images prompts may have.

    Args:
        max_pixels: Most pixels of an image, width times height. What the model makes of an image is an option of its
            processor (``policy.processor_kwargs``).
        allow_urls: Download images that are URLs, once, when their row is read. Else they are refused.

    Raises:
        ValueError: An option is out of range.
    """

    max_pixels: int = 2**25
    allow_urls: bool = False

    def __post_init__(self) -> None:
        require("data.images.", vars(self), (self.max_pixels >= 1, "max_pixels", "at least 1"))


class Processor(Protocol):
    """Reads prompts with images: a ``PromptProcessor``."""

    @property
    def hf_processor(self) -> Any:
        """The processor of transformers."""

    @property
    def placeholder(self) -> str:
        """What stands for an image in a text."""

    def encode(self, text: str, images: Sequence[ImageFile]) -> tuple[int, ...]:
        """The token ids of a prompt."""


@dataclass(frozen=True, kw_only=True)
class RowImages:
    """Finds the images of rows. An image that is no file yet becomes one.

    Attributes:
        processor: Of the model.
        base: The folder of relative paths.
        folder: Where images are put that come as bytes, from a URL or as objects of Pillow.
        options: Which are possible.
        refusal: Why the run takes none; None where it does.
    """

    processor: Processor
    base: Path
    folder: Path
    options: ImageOptions
    refusal: str | None = None

    def take(
        self, row: Mapping[str, Any], messages: Sequence[Message] | None, where: str
    ) -> tuple[tuple[Message, ...] | None, tuple[ImageFile, ...]]:
        """(The messages with a bare part for each image, the images in their order); as in TRL's formats.

        Images of the columns ``image`` or ``images`` are those of the parts that hold none. If no message has a part,
        they stand before the first text of a user.

        Raises:
            ValueError: There are more or fewer of them than parts, or one cannot be used.
        """
        column = self._read_columns(row, where)
        if messages is None:
            return None, self._read_all(column, where)
        if not column and not any(isinstance(message["content"], list) for message in messages):
            return tuple(messages), ()
        messages = [{**m, "content": _list_parts(m["content"])} for m in messages]
        parts = list(_list_images(messages, where))
        if column and not parts:
            messages, parts = _insert_parts(messages, len(column), where), [None] * len(column)
        if (bare := parts.count(None)) != len(column):
            raise UserError(
                f"{where}: the messages have {bare} image parts without an image, and the columns {len(column)} images "
                "for them. Give as many of both."
            )
        rest = iter(column)
        found = [next(rest) if part is None else part for part in parts]
        return tuple(_empty_parts(message) for message in messages), self._read_all(found, where)

    def _read_columns(self, row: Mapping[str, Any], where: str) -> list[Any]:
        given = {name: row[name] for name in COLUMNS if not _is_nothing(row.get(name))}
        if len(given) > 1:
            raise UserError(f"{where} has a column 'image' and a column 'images'. Leave one of them out.")
        if (images := given.get("images")) is not None and not isinstance(images, list | tuple):
            raise UserError(f"{where}: column 'images' holds a {type(images).__name__}; it must be a list of images.")
        return [item for value in given.values() for item in (value if isinstance(value, list | tuple) else [value])]

    def _read_all(self, values: Sequence[Any], where: str) -> tuple[ImageFile, ...]:
        if values and self.refusal is not None:
            raise UserError(f"{where} has images, and {self.refusal}")
        images = []
        for number, value in enumerate(values):
            try:
                images.append(self._read(value))
            except UserError as error:
                name = f" ({value[:100]})" if isinstance(value, str) else ""
                raise UserError(f"{where}: image {number}{name}: {error}.") from error
        return tuple(images)

    def _read(self, value: Any) -> ImageFile:
        """The image that ``value`` is, names or holds."""
        if isinstance(value, Mapping):
            key = next((key for key in KEYS if not _is_nothing(value.get(key))), KEYS[0])
            held = value.get(key)
            return self._keep(_decode(held)) if key == "base64" else self._read(held)
        if isinstance(value, bytes | bytearray):
            return self._keep(bytes(value))
        if isinstance(value, str | os.PathLike):
            return self._read_text(os.fspath(value))
        if hasattr(value, "has_transparency_data"):  # an image of Pillow
            check_image(value, max_pixels=self.options.max_pixels)
            buffer = io.BytesIO()
            to_rgb(value).save(buffer, "PNG", compress_level=1)
            return self._keep(buffer.getvalue())
        raise UserError(
            f"it is {'null' if value is None else f'a {type(value).__name__}'}; possible are the path of a file, "
            "bytes, an object with bytes or path (as datasets.Image), and images of Pillow"
        )

    def _read_text(self, text: str) -> ImageFile:
        """A path, a URL, or the image itself in base64."""
        if text.startswith("data:"):
            return self._keep(_decode(text.partition(",")[2]))
        if "://" in text:
            return self._keep(self._download(text))
        told = 'paths are relative to the data file, and base64 is a data: URL or {"base64": …}'
        try:
            path = Path(os.path.abspath(self.base / Path(text).expanduser()))
            if not path.is_file():
                raise UserError(f"there is no file {path if len(text) <= 100 else text[:100]}; {told}")
        except (OSError, RuntimeError) as error:  # too long; a user of ~ who is not there
            reason = getattr(error, "strerror", None) or str(error)[:100]
            raise UserError(f"it is no path of a file ({reason}); {told}") from None
        open_image(path, max_pixels=self.options.max_pixels)
        with path.open("rb") as file:
            return ImageFile(path=str(path), digest=hashlib.file_digest(file, "sha256").hexdigest()[:16])

    def _download(self, url: str) -> bytes:
        if not self.options.allow_urls:
            raise UserError(
                "it is a URL, which is not downloaded unasked. Set data.images.allow_urls: true, or use a file"
            )
        if not url.startswith(("http://", "https://")):
            raise UserError("it is a URL of another kind than http and https, the ones that are downloaded")
        import fsspec

        content = bytearray()
        try:
            with fsspec.open(url, "rb") as file:
                while len(content) <= DOWNLOADED and (chunk := file.read(2**20)):
                    content += chunk
        except Exception as error:  # of any kind
            raise UserError(f"it cannot be downloaded ({type(error).__name__}: {error})") from error
        if len(content) > DOWNLOADED:
            raise UserError(f"it has more than {DOWNLOADED:,} bytes, the most that are downloaded")
        return bytes(content)

    def _keep(self, content: bytes) -> ImageFile:
        """Put an image into the folder, under a name that is made of its bytes."""
        image = open_image(io.BytesIO(content), max_pixels=self.options.max_pixels)
        digest = hashlib.sha256(content).hexdigest()[:16]
        path = self.folder / f"{digest}.{str(image.format).lower()}"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".writing-", delete=False) as file:
                file.write(content)
            os.replace(file.name, path)
        return ImageFile(path=str(path), digest=digest)


def holds_images(row: Any) -> bool:
    """Whether a row has images in a column, or messages with parts for some."""
    if not isinstance(row, Mapping):
        return False
    if not all(_is_nothing(row.get(name)) for name in COLUMNS):
        return True
    messages = row.get("prompt")
    contents = [m.get("content") for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, Mapping) and part.get("type") in PARTS for part in parts)


def find_base(source: Any) -> Path:
    """The folder to which paths of images in the rows of a prompt source are relative: that of its file."""
    text = str(getattr(source, "path", ""))
    if not text or "://" in text:
        return Path.cwd()
    path = Path(*takewhile(lambda part: not has_magic(part), Path(text).expanduser().parts))
    return path.parent if path.is_file() else path


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | tuple) and not value)


def _decode(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise UserError(f"it is no base64 ({error})") from error


def _list_parts(content: Any) -> list[dict[str, Any]]:
    """The content of a message as parts."""
    return list(content) if isinstance(content, list) else [{"type": "text", "text": content}] if content else []


def _list_images(messages: Sequence[Message], where: str) -> Iterator[Any]:
    """The image parts of the messages, in order: None where one holds no image."""
    for number, message in enumerate(messages):
        for part in message["content"]:
            if part["type"] not in PARTS:
                continue
            if message["role"] != "user":
                raise UserError(
                    f"{where}: message {number} ({message['role']}) has an image; only a user's messages can have some."
                )
            yield part if any(not _is_nothing(part.get(key)) for key in KEYS) else None


def _insert_parts(messages: Sequence[Message], count: int, where: str) -> list[Message]:
    """The messages with ``count`` parts for images before the first text of a user."""
    at = next((i for i, message in enumerate(messages) if message["role"] == "user"), None)
    if at is None:
        raise UserError(f"{where}: no message is a user's, so that there is none to add the images to.")
    told = {**messages[at], "content": [*({"type": "image"} for _ in range(count)), *messages[at]["content"]]}
    return [*messages[:at], told, *messages[at + 1 :]]


def _empty_parts(message: Message) -> Message:
    """A message whose parts name images and hold none."""
    parts = [{"type": "image"} if part["type"] in PARTS else part for part in message["content"]]
    return {**message, "content": parts}
