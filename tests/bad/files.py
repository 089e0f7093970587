"""Files of models, data and earlier stages, damaged in every way; and places to write."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.bad.harness import MODEL, Case
from tests.bad.parameters import in_repository

FULL = "full disk"
FIRST = b"\x00\xff not what it says \x00"


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        path.write_bytes(bytes(byte ^ 0x55 if i < 40 else byte for i, byte in enumerate(content)))
    elif how == "another format":
        path.write_bytes(FIRST)
    elif how == "of another shape":
        path.write_text("[[1]]")
    elif how == "link loop":
        path.symlink_to(path.name)
    elif how == "folder":
        path.mkdir()


DAMAGES = ("missing", "empty", "truncated", "flipped", "another format", "of another shape", "link loop", "folder")
MODEL_FILES = (
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/tokenizer.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
)
SHARDS = ("data.source=webdataset", "data.path=in/shards", "data.resolution=16")
MADE = {  # files that a stage reads, of those before it
    "encode": ("data/train/images.npy", "data/train/captions.json", "base/unet/config.json", "base/vae/config.json"),
    "train": (
        "encoded/latents.npy",
        "encoded/prompt_embeds.npy",
        "encoded/card.json",
        "data/validation/captions.json",
        "data/validation/images.npy",
        "data/validation_floor/images.npy",
        "base/scheduler/scheduler_config.json",
    ),
}


def files() -> Iterator[Case]:
    def case(kind: str, path: str, how: str, entry: str, arguments: tuple[str, ...]) -> Case:
        return Case(kind, f"{path} {how}", entry, arguments, partial(damage, Path(path), how))

    for how, file in itertools.product(DAMAGES, MODEL_FILES):
        yield case("files of a model", f"in/base/{file}", how, "initialize", ())
        yield case("files of a model", f"in/model/{file}", how, "sample", ("a noun", *MODEL, "-o", "o.png"))
        if file == "model_index.json" or "unet" in file:
            yield case("files of a model", f"in/model/{file}", how, "export", ("in/model", "out", "--device", "cpu"))
    for how in DAMAGES:
        yield case("parameter file", "in/params.yaml", how, "prepare", ())
        yield case("pictures and shards", "in/shards/00000.tar", how, "prepare", SHARDS)
        yield case("pictures and shards", "in/shards/00000.tar", how, "prepare", (*SHARDS, "data.broken=refuse"))
        for file in ("metadata.jsonl", "0.png", "below/1.jpg", "below/1.txt"):
            yield case("pictures and shards", f"in/pictures/{file}", how, "prepare", ())
            yield case("pictures and shards", f"in/pictures/{file}", how, "prepare", ("data.broken=refuse",))
        yield case("prompt file", "in/prompts.txt", how, "sample", ("--prompts", "in/prompts.txt", *MODEL, "-o", "o.png"))
        for entry, found in MADE.items():
            for file in found:
                yield case("files of an earlier stage", f"artifacts/{file}", how, entry, ())


def outputs() -> Iterator[Case]:
    def loop() -> None:
        os.symlink("loop", "loop")

    def existing() -> None:
        shutil.copytree("in/model", "there")
        Path("there.png").mkdir()

    for name in (
        "nosuch/o.png",
        "o.jpg",
        "",
        "in/params.yaml/o.png",
        "loop/o.png",
        "loop",
        "x" * 300 + ".png",
        "\udcff.png",
        ".png",
        "/dev/null",
        "/proc/o.png",
        "there.png",
        "x" * 300 + "/",
    ):
        for entry, given in {"sample": (), "edit": ("in/given.png",)}.items():
            make = existing if name == "there.png" else loop
            yield Case("places to write", repr(name[:20]), entry, (*given, "a noun", *MODEL, "-o", name), make)
    for name in (
        "in/model",
        "in/model/below",
        "in",
        "",
        "loop",
        "loop/x",
        "there",
        "in/params.yaml",
        "x" * 300,
        "/proc/x",
        "/",
        ".",
    ):
        make = existing if name == "there" else loop
        for more in ((), ("--force",)):
            words = ("in/model", name, "--device", "cpu", *more)
            yield Case("places to write", f"{name[:20]!r} {' '.join(more)}", "export", words, make)


# a disk without room: these run on a small file system, which `fill` leaves without a free page


def full() -> Iterator[Case]:
    drawing = ("a noun", *MODEL, "-o")
    commands = {
        "sample": (*drawing, "o.png"),
        "edit": ("in/given.png", *drawing, "o.png"),
        "control": ("in/given.png", *drawing, "o.png", "--controlnet", "in/control"),
        "export": ("in/model", "out", "--device", "cpu"),
    }
    for entry, arguments in commands.items():
        yield Case(FULL, "one output", entry, arguments, fill)
    yield Case(FULL, "a folder of pictures", "sample", (*drawing, "o/"), fill)
    for entry in ("prepare", "initialize", "encode", "train", "compose"):
        yield Case(FULL, "outputs in artifacts/ stand", entry, (), fill)
    for entry in ("prepare", "encode"):
        yield Case(FULL, "shards", entry, SHARDS, fill)


def fill() -> None:
    in_repository()
    with contextlib.suppress(OSError), Path("in/filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
