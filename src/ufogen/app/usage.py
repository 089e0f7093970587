"""What the command line takes: commands, options and examples. Only the standard library, so that --help is instant."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ufogen.app.record import WIDTH

EXAMPLES = {
    "ufogen": """\
  ufogen sample "a noun with a shark head" --seed 3 -n 16 -o grid.png
  ufogen edit noun.png "a noun with a watermelon head" --strength 0.8
  ufogen info grid.png""",
    "sample": """\
  ufogen sample "a noun with a shark head" --seed 3 -n 16 -o grid.png
  ufogen sample --prompts prompts.txt -n 4 --steps 4 -o pictures/     a PNG for each picture
  ufogen sample "a noun" --model artifacts/ufogen --json | jq .seconds""",
    "edit": """\
  ufogen edit photo.jpg "a noun with a shark head" --strength 0.7 -n 4 -o edited.png""",
    "inpaint": """\
  ufogen inpaint noun.png mask.png "a noun with a shark head" --seed 5 -o inpainted.png""",
    "control": """\
  ufogen control noun.png "a noun with a shark head" --seed 5 -n 4 -o controlled.png""",
    "export": """\
  ufogen export models/nouns-ufogen shark-maker --fp16
  ufogen export artifacts/ufogen shark-maker --license apache-2.0 --force""",
    "info": """\
  ufogen info                      the released model
  ufogen info artifacts/ufogen     a model folder
  ufogen info grid.png             how a picture was made""",
    "demo": """\
  ufogen demo                      the released model and its base
  ufogen demo --model artifacts/ufogen --base artifacts/base --port 8080""",
    "plan": """\
  ufogen plan profile=sd15 --gpus 8 --gpu h100-80gb
  ufogen plan profile=sd15 trainer.batch_size=1 trainer.precision=no --json""",
}


class OneLine(argparse.ArgumentParser):
    """Wrong usage is one line too, with exit status 2, and `--help` has the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}; see {self.prog} --help\n")


def parser(functions: list[Callable], release: str) -> argparse.ArgumentParser:
    """The command line of these functions, each of which is the command of its own name and gets the parsed arguments."""
    of = {function.__name__: function for function in functions}
    kind = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    whole = OneLine("ufogen", description="Text to image in one step.", epilog=_epilog("ufogen"), **kind)
    whole.add_argument("--version", action="version", version=f"ufogen {release}")
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, line: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=line, description=of[name].__doc__, epilog=_epilog(name), **kind)
        added.set_defaults(command=of[name], name=name)
        added.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
        return added

    def loading(name: str, line: str) -> argparse.ArgumentParser:
        added = command(name, line)
        added.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
        return added

    def drawing(name: str, line: str, steps: int) -> argparse.ArgumentParser:
        added = loading(name, line)
        default = f"{name}.png"
        added.add_argument("-o", "--output", default=default, help=f"PNG file, or a folder: FOLDER/ (default: {default})")
        added.add_argument("-n", type=int, default=1, metavar="N", help="pictures of each prompt (default: 1)")
        added.add_argument("--seed", type=int, default=0, help="of the first picture; the next ones count on (default: 0)")
        added.add_argument("--steps", type=int, default=steps, help=f"passes through the network (default: {steps})")
        added.add_argument("--model", type=Path, help="model folder (default: the released model)")
        added.add_argument("--scale", type=int, help=f"screen pixels a pixel (default: pictures of about {WIDTH})")
        added.add_argument("--batch-size", type=int, default=1, help="above 1 faster, bytes may differ by one (default: 1)")
        return added

    added = drawing("sample", "draw pictures of prompts", steps=1)
    added.add_argument("prompt", nargs="*", help="what to draw")
    added.add_argument("--prompts", type=Path, metavar="FILE", help="prompts, one a line; - is stdin")
    added.set_defaults(usage=added.error)

    added = drawing("edit", "change an image towards a prompt", steps=1)
    added.add_argument("image", type=Path, help="any image; its middle square is used")
    added.add_argument("prompt", help="what it should become")
    added.add_argument("--strength", type=float, default=0.8, help="0 keeps the image, 1 nothing of it (default: 0.8)")

    added = drawing("inpaint", "draw a part of an image anew", steps=4)
    added.add_argument("image", type=Path, help="any image; its middle square is used")
    added.add_argument("mask", type=Path, help="image of the same shape, white where to draw")
    added.add_argument("prompt", help="what the whole picture should show")
    added.add_argument("--strength", type=float, default=1.0, help="below 1 something of what was there stays (default: 1)")

    added = drawing("control", "draw with the edges of an image", steps=1)
    added.add_argument("image", type=Path, help="any image; the edges of its middle square are kept")
    added.add_argument("prompt", help="what the picture should show")
    added.add_argument("--controlnet", type=Path, help="ControlNet's folder (default: the released one)")
    added.add_argument("--control-scale", type=float, default=1.0, help="0 leaves the edges out (default: 1)")

    added = loading("export", "write a standard diffusers folder")
    added.add_argument("source", type=Path, metavar="SRC", help="model folder")
    added.add_argument("target", type=Path, metavar="DST", help="folder to write")
    added.add_argument("--fp16", action="store_true", help="weights in half precision")
    added.add_argument("--license", help="licence for the card (default: that of SRC's card)")
    added.add_argument("--force", action="store_true", help="replace a model that stands at DST")

    added = loading("info", "describe a model, or how a picture was made")
    added.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="model folder or PNG (default: the released model)")

    added = loading("demo", "serve a page that draws while you type")
    added.add_argument("--model", type=Path, help="model folder (default: the released model)")
    added.add_argument("--base", type=Path, help="folder of its base (default: the released model's base for that model)")
    added.add_argument("--host", default="127.0.0.1", help="address to serve at; 0.0.0.0 is open to all (default: 127.0.0.1)")
    added.add_argument("--port", type=int, help="port to serve at (default: the first free one from 7860)")

    added = command("plan", "say what a training run takes")
    added.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as of dvc exp run -S: profile=sd15, trainer.updates=100"
    )
    added.add_argument("--gpus", type=int, metavar="N", help="that share the batch (default: processes of the parameters)")
    added.add_argument("--gpu", default="h100-80gb", help="their kind; an unknown one lists all (default: h100-80gb)")
    added.add_argument("--mfu", type=float, default=0.35, help="assumed share of the peak FLOP/s (default: 0.35)")
    return whole


def _epilog(name: str) -> str:
    return f"examples:\n{EXAMPLES[name]}"
