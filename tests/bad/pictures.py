"""Images and captions of every kind."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.bad.harness import MODEL, Case


def images() -> Iterator[Case]:
    for name, write in IMAGES.items():
        path = "in/made.png"
        make = partial(_write, path, write)
        yield Case("images", name, "edit", (path, "a noun", *MODEL, "-o", "o.png"), make)
        yield Case("images", name, "control", (path, "a noun", *MODEL, "-o", "o.png", "--controlnet", "in/control"), make)
        yield Case("images", name, "info", (path,), make)
        for broken in ("skip", "refuse"):
            make = partial(_write, "in/pictures/made.png", write)
            yield Case("images", f"{name}, {broken}", "prepare", (f"data.broken={broken}",), make)


def _write(path: str, write: Callable[[], bytes]) -> None:
    Path(path).write_bytes(write())
    Path(path).with_suffix(".txt").write_text("a noun")


def saved(image: Image.Image, kind: str = "PNG", **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def _exif(**tags) -> bytes:
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[int(tag[1:])] = value
    return saved(Image.new("RGB", (40, 30), "red"), "JPEG", exif=exif)


def _header(width: int, height: int) -> bytes:
    """A PNG that says this size and has next to nothing in it."""
    data = saved(Image.new("RGB", (1, 1)))
    return data[:16] + struct.pack(">II", width, height) + data[24:]


def noise(mode: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.effect_noise(size, 50).convert(mode)


IMAGES: dict[str, Callable[[], bytes]] = {
    "orientation 6": lambda: _exif(_274=6),
    "orientation 99": lambda: _exif(_274=99),
    "EXIF cut": lambda: _exif(_274=6)[:30] + b"\xff\xd9",
    "says 0 x 0": lambda: _header(0, 0),
    "says 1 x 2^31": lambda: _header(1, 2**31 - 1),
    "says 2^31 x 2^31": lambda: _header(2**31 - 1, 2**31 - 1),
    "says 60000 x 60000": lambda: _header(60_000, 60_000),
    "1 x 1": lambda: saved(Image.new("RGB", (1, 1))),
    "1 x 9000": lambda: saved(Image.new("RGB", (1, 9000))),
    "9000 x 1": lambda: saved(Image.new("RGB", (9000, 1))),
    "1 bit": lambda: saved(noise("1")),
    "16 bits": lambda: saved(Image.fromarray(np.full((30, 40), 51400, np.uint16))),
    "32 bits": lambda: saved(Image.fromarray(np.full((30, 40), 2**30, np.int32)), "TIFF"),
    "float with nan": lambda: saved(Image.fromarray(np.full((30, 40), np.nan, np.float32)), "TIFF"),
    "CMYK": lambda: saved(noise("CMYK"), "JPEG"),
    "YCbCr": lambda: saved(noise("YCbCr"), "JPEG"),
    "LAB": lambda: saved(Image.new("LAB", (40, 30)), "TIFF"),
    "grey and alpha": lambda: saved(noise("LA")),
    "palette with transparency": lambda: saved(noise("P"), transparency=3),
    "animated": lambda: saved(noise("P"), "GIF", save_all=True, append_images=[noise("P"), noise("P")]),
    "animated WebP": lambda: saved(noise("RGB"), "WEBP", save_all=True, append_images=[noise("RGB")]),
    "icon": lambda: saved(noise("RGBA"), "ICO"),
    "vector": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "cut": lambda: saved(noise("RGB"))[:-200],
    "text": lambda: b"not an image",
    "empty": lambda: b"",
    "colour profile broken": lambda: saved(noise("RGB"), icc_profile=b"nonsense"),
    "text chunk that unpacks to 80 MB": lambda: saved(Image.new("RGB", (9, 9)), pnginfo=_bomb()),
    "record that is no object": lambda: saved(Image.new("RGB", (9, 9)), pnginfo=_text("[1]")),
    "record of deep lists": lambda: saved(Image.new("RGB", (9, 9)), pnginfo=_text("[" * 100_000)),
}


def _text(text: str):
    info = PngInfo()
    info.add_text("ufogen", text)
    return info


def _bomb():
    info = PngInfo()
    info.add_text("ufogen", " " * 80_000_000, zip=True)
    return info


CAPTIONS = {
    "empty": b"",
    "blank": b" \t ",
    "huge": b"red " * 500_000,
    "one long word": b"x" * 100_000,
    "NUL": b"a\x00noun",
    "mark": b"\xef\xbb\xbfa noun",
    "UTF-16": "a noun".encode("utf-16"),
    "right to left": "\u202eשלום\u202c سمك".encode(),
    "lone surrogate": b"a \xed\xa0\x80 noun",
    "not UTF-8": b"a \xff noun",
    "control": b"\x1b[31m\x07\x7f\r\n\x0b",
    "combining": "a\u0301".encode() * 9000,
    "emoji": "👩‍🚀🦈".encode(),
    "option": b"--seed",
    "newlines": b"\n\n\r\n",
    "markup": b"<script>${1+1}</script>%s{0}",
    "private": "\U0010ffff\ue000".encode(),
}


def captions() -> Iterator[Case]:
    for name, text in CAPTIONS.items():
        words = text.decode("utf-8", "surrogateescape")
        if len(text) < 100_000 and b"\0" not in text:  # what a process can be given
            yield Case("captions", name, "sample", (*MODEL, "-o", "o.png", "--", words))
            yield Case("captions", name, "edit", (*MODEL, "-o", "o.png", "--", "in/given.png", words))
        write = partial(_caption, text)
        yield Case("captions", f"{name}, of a file", "sample", (*MODEL, "-o", "o.png", "--prompts", "in/prompts.txt"), write)
        for broken in ("skip", "refuse"):
            yield Case("captions", f"{name}, of a picture, {broken}", "prepare", (f"data.broken={broken}",), write)
    for name, line in {
        "lone surrogate": '{"file_name": "0.png", "text": "\\ud800"}',
        "number": '{"file_name": "0.png", "text": 7}',
        "no name": '{"text": "a"}',
        "deep": '{"file_name": ' + "[" * 100_000,
        "outside": '{"file_name": "../given.png", "text": "a"}',
        "NUL": '{"file_name": "0\\u0000.png", "text": "a"}',
        "surrogate name": '{"file_name": "\\ud800.png", "text": "a"}',
        "long name": json.dumps({"file_name": "x" * 5000, "text": "a"}),
        "absolute": '{"file_name": "/dev/zero", "text": "a"}',
        "folder": '{"file_name": "below", "text": "a"}',
        "huge number": '{"file_name": "0.png", "text": "a", "AESTHETIC_SCORE": 1e999}',
    }.items():
        for broken in ("skip", "refuse"):
            write = partial(Path("in/pictures/metadata.jsonl").write_text, line + "\n")
            yield Case("captions", f"metadata.jsonl: {name}, {broken}", "prepare", (f"data.broken={broken}",), write)


def _caption(text: bytes) -> None:
    Path("in/prompts.txt").write_bytes(text)
    Path("in/pictures/below/1.txt").write_bytes(text)
