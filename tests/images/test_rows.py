"""The images of data rows: every form that they may have, and everything that is refused."""

from __future__ import annotations

import base64
import copy
import functools
import io
import re
import struct
import threading
import zlib
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from lgrpo_lightning.data.encoding import PromptEncoder
from lgrpo_lightning.data.files import PromptFile
from lgrpo_lightning.data.images import ImageOptions, RowImages, find_base, holds_images
from lgrpo_lightning.images import ImageFile, OpenedImages
from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy.processor import PromptProcessor
from lgrpo_lightning.types import Prompt
from tests.images.models import write_image_model
from tests.images.rows import ask, draw, encode

PNG = encode(draw())
IMAGE = {"type": "image"}


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> PromptProcessor:
    folder = write_image_model("gemma3", tmp_path_factory.mktemp("model"))
    return PromptProcessor(PolicyConfig(path=str(folder)))


def read(processor: PromptProcessor, folder: Path, row: dict[str, Any], **options: Any) -> Prompt:
    """The prompt of a row."""
    limits = {name: options.pop(name) for name in ("max_pixels", "allow_urls") if name in options}
    images = RowImages(processor=processor, base=folder, folder=folder / "kept", options=ImageOptions(**limits))
    encoder = PromptEncoder(tokenizer=processor.hf_processor.tokenizer, images=images, **{"max_length": 200, **options})
    return encoder.encode([row], name="train", origin="rows.jsonl")[0]


def write(folder: Path, name: str = "a.png", content: bytes = PNG) -> str:
    (folder / name).write_bytes(content)
    return name


FORMS = {
    "a path": lambda folder: write(folder),
    "an absolute path": lambda folder: folder / write(folder),
    "bytes": lambda folder: PNG,
    "datasets.Image": lambda folder: {"bytes": PNG, "path": None},
    "datasets.Image with a path": lambda folder: {"bytes": None, "path": write(folder)},
    "Pillow": lambda folder: draw(),
    "base64": lambda folder: {"base64": base64.b64encode(PNG).decode()},
    "a data URL": lambda folder: "data:image/png;base64," + base64.b64encode(PNG).decode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_image_is_the_same_prompt(form: str, processor: PromptProcessor, tmp_path: Path) -> None:
    value = FORMS[form](tmp_path)
    key = {"base64": "base64"}.get(form, "image")
    held = value["base64"] if form == "base64" else value
    rows = [
        {"prompt": ask(IMAGE), "images": [value]},
        {"prompt": ask(IMAGE), "image": value},
        {"prompt": [{"role": "user", "content": "how many?"}], "images": [value]},
        {"prompt": ask({"type": "image", key: held})},
    ]
    for row in rows:
        prompt = read(processor, tmp_path, row)
        assert prompt.text == "u:<start_of_image>how many?a:"
        assert prompt.messages == tuple(ask(IMAGE))
        assert (len(prompt.token_ids), len(prompt.images)) == (23, 1)
        assert not {"images", "image"} & {*prompt.columns}
        assert np.array_equal(np.asarray(prompt.images[0].open()), np.asarray(draw()))


def test_an_openai_part_a_string_prompt_and_a_plain_text(processor: PromptProcessor, tmp_path: Path) -> None:
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()}}
    expected = read(processor, tmp_path, {"prompt": ask(IMAGE), "images": [PNG]})
    assert read(processor, tmp_path, {"prompt": ask(url)}) == expected
    chat = read(processor, tmp_path, {"prompt": "how many?", "images": [PNG]}, chat=True)
    assert (chat.text, chat.images, chat.messages) == (expected.text, expected.images, expected.messages)
    plain = read(processor, tmp_path, {"prompt": "u:<start_of_image>how many?a:", "images": [PNG]})
    assert (plain.token_ids, plain.messages) == (expected.token_ids, None)


def test_rows_without_images_are_text(processor: PromptProcessor, tmp_path: Path) -> None:
    for row in ({}, {"images": None}, {"images": []}, {"image": None}, {"image": ""}):
        prompt = read(processor, tmp_path, {"prompt": [{"role": "user", "content": "how many?"}], **row})
        assert (prompt.text, prompt.images) == ("u:how many?a:", ())
    ids = processor.hf_processor.tokenizer("1+1=")["input_ids"]
    assert read(processor, tmp_path, {"prompt": "1+1="}).token_ids == tuple(ids)


def test_fields_that_a_table_fills_up(processor: PromptProcessor, tmp_path: Path) -> None:
    parts = [
        {"type": "image", "text": "", "image": write(tmp_path)},
        {"type": "text", "text": "how many?", "image": ""},
    ]
    bare = [{**parts[0], "image": ""}, parts[1]]
    expected = read(processor, tmp_path, {"prompt": ask(IMAGE), "images": ["a.png"]})
    for row in (
        {"prompt": [{"role": "user", "content": parts}]},
        {"prompt": [{"role": "user", "content": bare}], "images": ["a.png"]},
        {"prompt": ask(IMAGE), "image": {"bytes": "", "path": "a.png"}},
    ):
        assert read(processor, tmp_path, row) == expected
    assert not holds_images({"prompt": ask(), "images": None, "image": ""})
    assert not holds_images({"prompt": ask(), "images": []})


def test_a_template_that_changes_the_text_reads_no_parts(processor: PromptProcessor) -> None:
    tokenizer = copy.deepcopy(processor.hf_processor.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'].replace('1', 'one') }}{% endfor %}"
    encoder = PromptEncoder(tokenizer=tokenizer, max_length=100)
    chat = {"prompt": [{"role": "user", "content": "1+1"}]}
    assert encoder.encode([chat], name="train", origin="rows.jsonl")[0].text == "one+one"


def test_a_photo_with_a_small_copy_is_one_image(processor: PromptProcessor, tmp_path: Path) -> None:
    photo = encode(draw(), "MPO", save_all=True, append_images=[draw((20, 15))])
    prompt = read(processor, tmp_path, {"prompt": ask(IMAGE), "images": [photo]})
    assert prompt.images[0].open().size == (40, 30)


def test_the_system_prompt_and_several_turns(processor: PromptProcessor, tmp_path: Path) -> None:
    chat = [*ask(IMAGE, IMAGE), {"role": "assistant", "content": "two"}, *ask(IMAGE, text="and now?")]
    prompt = read(
        processor, tmp_path, {"prompt": chat, "images": [PNG, encode(draw((50, 50))), PNG]}, system_prompt="Count."
    )
    assert prompt.text == "s:Count.u:<start_of_image><start_of_image>how many?a:twou:<start_of_image>and now?a:"
    assert [image.open().size for image in prompt.images] == [(40, 30), (50, 50), (40, 30)]
    assert prompt.images[0] == prompt.images[2] != prompt.images[1]


def test_pixels_are_rgb_whatever_the_file_has(processor: PromptProcessor, tmp_path: Path) -> None:
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    turned = Image.new("RGB", (20, 10))
    exif = turned.getexif()
    exif[0x0112] = 6
    files = {
        "clear.png": (encode(clear), (20, 20)),
        "cmyk.jpg": (encode(draw(mode="CMYK"), "JPEG"), (40, 30)),
        "grey.png": (encode(draw(mode="L")), (40, 30)),
        "two.png": (encode(draw(mode="1")), (40, 30)),
        "palette.gif": (encode(draw(mode="P"), "GIF"), (40, 30)),
        "one.png": (encode(draw((1, 1))), (1, 1)),
        "turned.jpg": (encode(turned, "JPEG", exif=exif), (10, 20)),
    }
    for name, (content, size) in files.items():
        prompt = read(processor, tmp_path, {"prompt": ask(IMAGE), "images": [write(tmp_path, name, content)]})
        opened = prompt.images[0].open()
        assert (opened.mode, opened.size) == ("RGB", size)
    assert ImageFile(path=str(tmp_path / "clear.png"), digest="").open().getpixel((5, 5)) == (255, 255, 255)


def cut_png() -> bytes:
    return PNG[: len(PNG) // 2]


def huge_png() -> bytes:
    """A file of a few bytes that says it has 60,000 x 60,000 pixels."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(b"")}
    packed = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def moving() -> bytes:
    return encode(draw(mode="P"), "GIF", save_all=True, append_images=[draw(seed=1, mode="P")])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "missing file": (
        {"images": ["none.png"]},
        r"image 0 \(none\.png\): there is no file .*/none\.png; paths are relative",
    ),
    "folder": ({"images": ["."]}, "there is no file"),
    "no image": ({"images": [b"text"]}, "its bytes are no image"),
    "empty bytes": ({"images": [b""]}, "its bytes are no image"),
    "cut": ({"images": [cut_png()]}, r"image 0 \(.*\): it cannot be decoded \(OSError"),
    "too large for Pillow": ({"images": [huge_png()]}, "cannot be read .DecompressionBomb"),
    "too large": (
        {"images": [encode(draw((70, 70)))], "max_pixels": 4000},
        "70 x 70 pixels; at most 4,000 are possible",
    ),
    "more images": ({"images": [PNG, PNG]}, "1 image parts without an image, and the columns 2 images"),
    "fewer images": (
        {"prompt": ask(IMAGE, IMAGE), "images": [PNG]},
        "2 image parts without an image, and the columns 1",
    ),
    "no images": ({"prompt": ask(IMAGE)}, "1 image parts without an image, and the columns 0"),
    "empty list": ({"images": []}, "1 image parts without an image, and the columns 0"),
    "null beside": ({"prompt": ask(IMAGE, IMAGE), "images": [PNG, None]}, "image 1: it is null; possible are"),
    "EPS": ({"images": [encode(draw(), "EPS")]}, "image 0: its bytes are no image of the formats PNG, JPEG"),
    "EPS of Pillow": ({"images": [Image.open(io.BytesIO(encode(draw(), "EPS")))]}, "its format is EPS"),
    "base64 as a path": (
        {"images": [base64.b64encode(PNG).decode()]},
        r"image 0 \(.{100}\): it is no path of a file \(File name too long\); .* data: URL or .\"base64\"",
    ),
    "short base64 as a path": ({"images": ["iVBORw0K" * 20]}, r"there is no file .{100}; paths are relative"),
    "user that is not there": ({"images": ["~x.png"]}, r"image 0 \(~x\.png\): it is no path of a file"),
    "damaged EXIF": (
        {"images": [encode(draw(), exif=b"Exif\0\0damaged!")]},
        r"it cannot be decoded \(SyntaxError",
    ),
    "number": ({"images": [3]}, "image 0: it is a int; possible are"),
    "array": ({"images": [np.zeros((4, 4, 3), dtype=np.uint8)]}, "it is a ndarray"),
    "nested": ({"images": [[PNG]]}, "it is a list"),
    "empty object": ({"images": [{}]}, "it is null"),
    "string of a list": ({"images": "a.png"}, "column 'images' holds a str; it must be a list"),
    "both columns": ({"images": [PNG], "image": PNG}, "a column 'image' and a column 'images'"),
    "URL": ({"images": ["https://x.org/a.png"]}, r"it is a URL, .*data\.images\.allow_urls: true"),
    "URL in a part": ({"prompt": ask({"type": "image", "url": "http://x.org/a.png"})}, "it is a URL"),
    "no base64": ({"images": ["data:image/png;base64,???"]}, "it is no base64"),
    "animation": ({"images": [moving()]}, "an animation, or a file of 2 pages"),
    "16 bits": ({"images": [encode(Image.new("I;16", (20, 20)))]}, "mode 'I;16', with more than 8 bits"),
    "16 bits of Pillow": ({"images": [Image.new("F", (20, 20))]}, "mode 'F', with more than 8 bits"),
    "assistant": (
        {"prompt": [*ask(), {"role": "assistant", "content": [IMAGE]}, *ask()], "images": [PNG]},
        r"message 1 \(assistant\) has an image",
    ),
    "system": (
        {"prompt": [{"role": "system", "content": [IMAGE]}, *ask()], "images": [PNG]},
        r"message 0 \(system\) has an image",
    ),
    "audio": (
        {"prompt": ask({"type": "audio", "audio": "a.wav"})},
        "part of type audio; only parts of type text and image",
    ),
    "video": (
        {"prompt": ask({"type": "video", "video": "a.mp4"})},
        "part of type video; only parts of type text and image",
    ),
    "a placeholder in a text": (
        {"prompt": ask(IMAGE, text="<start_of_image>?"), "images": [PNG]},
        "1 images and 2 placeholders '<start_of_image>'",
    ),
    "a text without a placeholder": (
        {"prompt": "how many?", "images": [PNG]},
        "1 images and 0 placeholders '<start_of_image>'",
    ),
    "too long": ({"prompt": ask(*[IMAGE] * 30), "images": [PNG] * 30}, "has 3.. tokens; at most 200 are possible"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind: str, processor: PromptProcessor, tmp_path: Path) -> None:
    row, said = REFUSED[kind]
    row = {"prompt": ask(IMAGE), **row}
    options = {"max_pixels": row.pop("max_pixels")} if "max_pixels" in row else {}
    with pytest.raises(ValueError, match=said) as caught:
        read(processor, tmp_path, row, **options)
    assert re.search(r"rows\.jsonl(, row 0 \(from 0\)|: prompt train/0)", str(caught.value))


def test_a_model_of_text_has_no_images(tmp_path: Path) -> None:
    processor = PromptProcessor(PolicyConfig())
    text = read_text_model(processor, tmp_path, {"prompt": "1+1="})
    assert not text.images
    with pytest.raises(ValueError, match=r"row 0 \(from 0\): policy.path is 'lgrpo:arithmetic', .* reads text only"):
        read_text_model(processor, tmp_path, {"prompt": ask(IMAGE), "images": [PNG]})


def read_text_model(processor: PromptProcessor, folder: Path, row: dict[str, Any]) -> Prompt:
    from tools.make_arithmetic import build_tokenizer

    images = RowImages(processor=processor, base=folder, folder=folder / "kept", options=ImageOptions())
    encoder = PromptEncoder(tokenizer=build_tokenizer(), images=images, max_length=100)
    return encoder.encode([row], name="train", origin="rows.jsonl")[0]


def test_a_url_that_is_allowed_is_downloaded_once(
    processor: PromptProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"

    def download(url: str) -> Prompt:
        return read(processor, tmp_path, {"prompt": ask(IMAGE), "images": [url]}, allow_urls=True)

    try:
        assert Path(download(f"{address}/a.png").images[0].path).parent == tmp_path / "kept"
        with pytest.raises(ValueError, match=r"image 0 \(http://.*none.png\): it cannot be downloaded"):
            download(f"{address}/none.png")
        with pytest.raises(ValueError, match=r"image 0 \(file://.*a.png\): it is a URL of another kind than http"):
            download(f"file://{tmp_path}/a.png")
        monkeypatch.setattr("lgrpo_lightning.data.images.DOWNLOADED", len(PNG) - 1)
        with pytest.raises(ValueError, match=r"it has more than .* bytes"):
            download(f"{address}/a.png")
    finally:
        server.shutdown()
        server.server_close()


def test_bytes_are_kept_once(processor: PromptProcessor, tmp_path: Path) -> None:
    for _ in range(2):
        read(processor, tmp_path, {"prompt": ask(IMAGE, IMAGE), "images": [PNG, draw()]})
    assert len(list((tmp_path / "kept").iterdir())) in (1, 2)  # Pillow may compress otherwise


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_a_data_set_of_images(kind: str, processor: PromptProcessor, tmp_path: Path) -> None:
    text = datasets.Value("string")
    message = {"role": text, "content": [{"type": text, "text": text}]}
    table = datasets.Dataset.from_dict(
        {"prompt": [ask(IMAGE)], "images": [[draw()]]},
        features=datasets.Features({"prompt": [message], "images": [datasets.Image()]}),
    )
    if kind == "parquet":
        table.to_parquet(str(tmp_path / "rows.parquet"))
    else:
        table.save_to_disk(str(tmp_path / "saved"))
    rows = list(PromptFile(str(tmp_path / ("rows.parquet" if kind == "parquet" else "saved"))).rows())
    assert holds_images(rows[0])
    prompt = read(processor, tmp_path, dict(rows[0]))
    assert np.array_equal(np.asarray(prompt.images[0].open()), np.asarray(draw()))


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    write(tmp_path, "rows.jsonl", b"")
    assert find_base(PromptFile(str(tmp_path / "rows.jsonl"))) == tmp_path
    assert find_base(PromptFile(str(tmp_path))) == tmp_path
    assert find_base(PromptFile(str(tmp_path / "*.jsonl"))) == tmp_path
    assert find_base(object()) == Path.cwd()


def test_opened_images_open_one_by_one(tmp_path: Path) -> None:
    there, gone = (ImageFile(path=str(tmp_path / name), digest="") for name in (write(tmp_path), "gone.png"))
    opened = OpenedImages([(there, gone), None])
    assert (len(opened), opened[1], opened[0][0].size, len(opened[0])) == (2, None, (40, 30), 2)
    with pytest.raises(ValueError, match="there is no such file"):
        opened[0][1]
