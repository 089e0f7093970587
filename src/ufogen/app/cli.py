"""The command line: `ufogen sample | edit | inpaint | control | export | info | demo | plan`.

Exit status: 0 when done, 1 with one line `error: ...` on stderr for bad input, 2 for wrong usage, 130 when interrupted.
torch and diffusers are imported inside the commands, so that --help is instant.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ufogen.app.record import MAX_SIDE, columns_of, enlargement, grid, png, read_record, version
from ufogen.app.usage import parser
from ufogen.errors import UserError
from ufogen.files import publish, storage_failure, write_together
from ufogen.inference.modelcard import CARD_PROMPTS, model_card, plain

if TYPE_CHECKING:
    from PIL import Image

    from ufogen.inference.api import UFOGen

LONGEST_NAME = 200  # characters of a place that a line names


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a prompt's script may not be the terminal's
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
        sys.stdout.flush()
        return 0
    except UserError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        failure = _shortage(error)
        if failure is None:
            raise
        return _fail(*failure)


def sample(a: argparse.Namespace) -> None:
    """Draw pictures of prompts."""
    _draw(a, _prompts(a), lambda model, prompts, **settings: model(prompts, **settings))


def edit(a: argparse.Namespace) -> None:
    """Change an image towards a prompt: noise it to a middle timestep, then one pass."""
    record = {"image": a.image.name, "strength": a.strength}
    _draw(a, [a.prompt], lambda model, prompts, **settings: model.edit(a.image, prompts, a.strength, **settings), **record)


def inpaint(a: argparse.Namespace) -> None:
    """Draw the white part of a mask anew and keep the rest of an image."""

    def draw(model: UFOGen, prompts: list[str], **settings: Any) -> list[Image.Image]:
        return model.inpaint(a.image, a.mask, prompts, strength=a.strength, **settings)

    _draw(a, [a.prompt], draw, image=a.image.name, mask=a.mask.name, strength=a.strength)


def control(a: argparse.Namespace) -> None:
    """Draw pictures that keep to the edges of an image."""
    asked = {"controlnet": a.controlnet, "scale": a.control_scale}
    record = {"image": a.image.name, "control_scale": a.control_scale}
    _draw(a, [a.prompt], lambda model, prompts, **settings: model.control(a.image, prompts, **asked, **settings), **record)


def export(a: argparse.Namespace) -> None:
    """Write a model as an ordinary folder of stock diffusers with a model card."""
    source, target = (Path(os.path.realpath(path)) for path in (a.source, a.target))
    if target.is_symlink():
        raise UserError(f"{a.target} is a loop of links: choose another folder to write")
    if target == source or target in source.parents or source in target.parents:
        raise UserError(f"{a.target} and {a.source} lie in one another: choose another folder to write")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        if not (target / "model_index.json").is_file():
            raise UserError(f"{a.target} exists and is not a model: choose another folder to write")
        if not a.force:
            raise UserError(f"{a.target} exists: choose another folder, or replace it with --force")
    _check_folder(target.parent)
    a.model = a.source
    model = _load(a)
    from ufogen.base.loading import save_pipeline

    description = model.describe()
    if not description["one_step"]:
        raise UserError(f"{a.source} is no one-step model: its {description['scheduler']} takes many steps")
    samples = grid(model(CARD_PROMPTS, n=4), 4, enlargement(model))
    if a.fp16:
        import torch

        model.pipeline.to(torch.float16)
    with publish(target) as folder:
        save_pipeline(model.pipeline, folder)
        (folder / "samples.png").write_bytes(png(samples))
        (folder / "README.md").write_text(model_card(a.target.name, a.source, a.license, description, a.fp16), encoding="utf-8")
        for licence in a.source.glob("LICENSE*"):
            shutil.copy(licence, folder)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    report = {"output": str(a.target), "bytes": size, "fp16": a.fp16, "source": description}
    _say(a, report, f"{a.target}: {size / 1e6:.1f} MB, loads with {description['pipeline']}.from_pretrained")


def info(a: argparse.Namespace) -> None:
    """Describe a model, or say how a picture was made."""
    if a.model is not None and a.model.is_file():
        report = read_record(a.model)
    else:
        report = _load(a).describe()
    _say(a, report, "\n".join(f"{key:<16} {plain(value)}" for key, value in report.items()))


def demo(a: argparse.Namespace) -> None:
    """Serve a page that draws while you type, beside the many-step base, until it is interrupted."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs gradio, which is not installed: pip install 'gradio>=6.31,<7'")
    os.environ |= {"NO_PROXY": "*", "no_proxy": "*"}  # gradio reads it when it is imported, and asks no host but itself
    model = _load(a)
    from ufogen.app.demo import serve
    from ufogen.app.demo_model import Studio
    from ufogen.inference.api import UFOGen, released_base

    base = released_base() if a.base is None and a.model is None else a.base
    studio = Studio(model, None if base is None else UFOGen.from_pretrained(base, device=a.device))
    serve(studio, a.host, a.port, lambda url: _say(a, {"url": url}, f"{url} (stop with Ctrl-C)"))


def plan(a: argparse.Namespace) -> None:
    """Say what a training run takes, before it is paid for: memory by part, FLOPs, hours, and whether it fits.

    The parameters are composed from experiments/, so run it in a copy of the repository, which pip does not install.
    """
    _quiet()
    from ufogen.planning.plan import composed, described, make_plan

    report = make_plan(composed(a.overrides), a.gpus, a.gpu, a.mfu)
    _say(a, report, described(report))


def _parser() -> argparse.ArgumentParser:
    return parser([sample, edit, inpaint, control, export, info, demo, plan], version())


def _open_streams() -> None:
    """Standard streams that the caller has closed, open on nothing: Python has None for them, and no check would expect it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def _fail(message: str, status: int) -> int:
    line = "".join(c if c.isprintable() else " " for c in message.encode(errors="replace").decode())
    print("error:", " ".join(line.split()), file=sys.stderr)
    return status


def _shortage(error: Exception) -> tuple[str, int] | None:
    """One line and the exit status for a lack of memory or disk, or for a place that cannot be used, which is bad input.

    Only its text tells a lack of memory apart in torch.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error):
        return "out of memory: try a smaller --batch-size", 1
    if failure := storage_failure(error, unnamed="the output"):
        return f"cannot write {failure[0] or 'the output'}: {failure[1]}", 1
    if isinstance(error, OSError) and error.filename is not None:  # its name is too long, or a disk has gone
        return f"cannot use {str(error.filename)[:LONGEST_NAME]}: {error.strerror}", 2
    return None


def _quiet() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore")


def _load(a: argparse.Namespace) -> UFOGen:
    _quiet()
    from ufogen.inference.api import UFOGen

    return UFOGen.from_pretrained(a.model, device=a.device)


def _prompts(a: argparse.Namespace) -> list[str]:
    if bool(a.prompt) == (a.prompts is not None):
        a.usage("give prompts or --prompts FILE, not both" if a.prompt else "give a prompt, or --prompts FILE")
    if a.prompts is None:
        return a.prompt
    try:
        data = sys.stdin.buffer.read() if str(a.prompts) == "-" else a.prompts.read_bytes()
        lines = re.split(r"\r\n|\r|\n", data.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{a.prompts} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{a.prompts} is not UTF-8 text at byte {error.start}") from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{a.prompts} has no prompts")
    return prompts


def _draw(a: argparse.Namespace, prompts: list[str], draw: Callable[..., list[Image.Image]], **record: Any) -> None:
    """Load the model, draw, write a grid or a folder of PNGs with a record in each, and report."""
    folder = a.output.endswith(("/", os.sep)) or Path(a.output).is_dir()
    output = Path(a.output)
    if not folder and output.suffix.lower() != ".png":
        raise UserError(f"the output {a.output} must end with .png, or with / for a folder")
    _check_folder(output if output.is_dir() else output.parent)
    model = _load(a)
    scale = enlargement(model) if a.scale is None else a.scale
    if not 1 <= scale <= MAX_SIDE // max(model.image_size):
        raise UserError(f"the scale is {scale}; allowed: 1 ... {MAX_SIDE // max(model.image_size)}")
    columns = 1 if folder else columns_of(a.n, len(prompts), model.image_size, scale)
    cut = sum(not model.reads_whole(prompt) for prompt in prompts)
    if cut:
        tokens = model.pipeline.tokenizer.model_max_length
        print(f"note: {cut} of {len(prompts)} prompts longer than {tokens} tokens; the rest is not read", file=sys.stderr)

    began = time.perf_counter()
    images = draw(model, prompts, seed=a.seed, steps=a.steps, n=a.n, batch_size=a.batch_size, progress=True)
    seconds = time.perf_counter() - began

    made = {"command": a.name, "version": version(), "model": model.folder.resolve().name, "model_sha256": model.sha256}
    made |= {"steps": a.steps} | record
    cells = [{"prompt": prompt, "seed": a.seed + i} for prompt in prompts for i in range(a.n)]
    if folder:
        files = {}
        for i, (cell, image) in enumerate(zip(cells, images, strict=True)):
            cell["file"] = f"{i // a.n + 1:04d}-{cell['seed']}.png"
            own = {"prompts": [cell["prompt"]], "seeds": [cell["seed"]]}
            files[output / cell["file"]] = png(grid([image], 1, scale), made | own)
        _write_folder(output, files)
    else:
        own = {"prompts": prompts, "seeds": [a.seed + i for i in range(a.n)]}
        _write(output, {output: png(grid(images, columns, scale), made | own)})
    report = {"output": a.output} | made | {"seconds": round(seconds, 3), "images": cells}
    _say(a, report, f"{a.output}: {len(images)} {'picture' if len(images) == 1 else 'pictures'} in {seconds:.2f} s")


def _check_folder(folder: Path) -> None:
    """Fail before the work, not after it."""
    if not folder.is_dir():
        raise UserError(f"cannot write into {folder}: it is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write into {folder}: permission denied")


def _write(output: Path, files: dict[Path, bytes]) -> None:
    """All files whole, or none."""
    try:
        write_together(files)
    except OSError as error:
        raise UserError(f"cannot write {str(output)[:LONGEST_NAME]}: {error.strerror}") from error


def _write_folder(folder: Path, files: dict[Path, bytes]) -> None:
    """The same for a folder, which is made where it is not there."""
    there = folder.is_dir()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {str(folder)[:LONGEST_NAME]}: {error.strerror}") from error
    try:
        _write(folder, files)
    except UserError:
        if not there:
            folder.rmdir()
        raise


def _say(a: argparse.Namespace, report: dict, line: str) -> None:
    print(json.dumps(report) if a.json else line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
