"""The page of `ufogen demo`: pictures that are drawn again while the prompt is typed. Nothing is asked of any other host.

While a drawing runs, what is typed waits, and then only the newest prompt is drawn. A fixed delay would come on top of that.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import logging
import os
import random
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ufogen.app.demo_model import BASE_STEPS, GUIDANCE, MAX_CHARACTERS, MAX_PICTURES, STEPS, Drawing, Studio
from ufogen.errors import UserError

PROMPT, OTHER = "a noun with a shark head", "a noun with a watermelon head"
MAX_UPLOAD = "10mb"
MAX_WAITING = 32  # requests, of all that have the page open
MAX_SESSIONS = 100
KEEP = 600  # seconds after which an upload is deleted
WIDTH = 96  # screen pixels of a picture, at least
CSS = """
.pictures { display: flex; flex-wrap: wrap; gap: 8px; }
.pictures figure { margin: 0; }
.pictures img { display: block; min-width: %dpx; image-rendering: pixelated; }
.pictures figcaption { font-size: 12px; color: var(--body-text-color-subdued); }
.said { min-height: 1.5em; overflow-wrap: anywhere; }
.said.wrong { color: var(--error-text-color); }
"""


def one_line(outputs: int) -> Callable[[Callable[..., tuple]], Callable[..., tuple]]:
    """Turn a failure into a line, the first of a page function's outputs, and leave all others as they are."""

    def guard(function: Callable[..., tuple]) -> Callable[..., tuple]:
        @functools.wraps(function)
        def guarded(self: Page, *arguments: Any) -> tuple:
            try:
                return function(self, *arguments)
            except UserError as error:
                message = str(error)
            except Exception as error:
                logging.getLogger(__name__).exception("the page failed")
                message = f"{type(error).__name__}: {error}"
            return said(message, wrong=True), *[gr.skip()] * (outputs - 1)

        return guarded

    return guard


class Page:
    """The page's functions, whose outputs are HTML, and the page that calls them."""

    def __init__(self, studio: Studio):
        self.studio = studio

    @one_line(6)
    def redraw(
        self,
        renew: bool | None,
        prompt: str,
        seed: int,
        locked: bool,
        n: int,
        steps: int,
        image: Image.Image | None,
        strength: float,
        beside: bool,
    ) -> tuple:
        """Line, pictures, new seed, the base's line and pictures, and what the base is to draw beside them.

        renew: draw a new seed (true), keep it (false), or as the lock says (None).
        """
        new = not locked if renew is None else renew
        if new:
            seed = random.randrange(1_000_000)
        drawing = self.studio.draw(prompt, seed, n, steps, image, strength)
        base = (gr.skip(), gr.skip(), (prompt, seed, n)) if beside else ("", "", None)
        return said(drawing.line), pictures(drawing), seed if new else gr.skip(), *base

    @one_line(2)
    def draw_base(self, prompt: str, seed: int, n: int) -> tuple:
        drawing = self.studio.draw_base(prompt, seed, n)
        return said(drawing.line), pictures(drawing)

    def draw_beside(self, request: tuple[str, int, int] | None) -> tuple:
        return ("", "") if request is None else self.draw_base(*request)

    @one_line(2)
    def interpolate(self, prompt: str, other: str, seed: int, other_seed: int, frames: int) -> tuple:
        drawing = self.studio.interpolate((prompt, other), (seed, other_seed), frames)
        return said(drawing.line), pictures(drawing)

    @one_line(3)
    def read_upload(self, path: str) -> tuple:
        """Line, the image and how it looks to the model."""
        image = self.studio.read_upload(Path(path))
        return "", image, pictures(Drawing([image], ["as the model sees it"], ""))

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="UFOGen", analytics_enabled=False, delete_cache=(KEEP, KEEP)) as page:
            gr.HTML(f"<h1>UFOGen</h1>{html.escape(self._about())}")
            with gr.Tab("Draw"):
                self._build_drawing(page)
            with gr.Tab("Interpolate") as tab:
                self._build_interpolation(tab)
        return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1, api_open=False)

    def _about(self) -> str:
        model = self.studio.model
        about = f"Model {model.folder.resolve().name}, {(model.sha256 or '')[:12]}, on {model.device}."
        return about if self.studio.base else f"{about} No base model: name its folder with --base."

    def _build_drawing(self, page: gr.Blocks) -> None:
        prompt = gr.Textbox(PROMPT, label="Prompt", max_length=MAX_CHARACTERS, autofocus=True, elem_id="prompt")
        with gr.Row():
            seed = gr.Number(3, label="Seed", precision=0, elem_id="seed")
            locked = gr.Checkbox(True, label="Lock the seed", info="while you type", elem_id="lock")
            renew = gr.Button("New seed", elem_id="renew")
            n = gr.Slider(1, MAX_PICTURES, 4, step=1, label="Pictures", elem_id="pictures")
            steps = gr.Radio(list(STEPS), value=1, label="Steps", elem_id="steps")
        with gr.Row():
            with gr.Column():
                gr.HTML("<h3>UFOGen</h3>")
                grid = gr.HTML(elem_id="grid")
                line = gr.HTML(elem_id="line")
            with gr.Column(visible=self.studio.base is not None):
                gr.HTML(f"<h3>Base model, {BASE_STEPS} steps, guidance {GUIDANCE:g}, from the prompt alone</h3>")
                base_grid = gr.HTML(elem_id="base-grid")
                base_line = gr.HTML(elem_id="base-line")
                with gr.Row():
                    ask = gr.Button("Draw with the base model", elem_id="ask")
                    beside = gr.Checkbox(False, label="Always beside", elem_id="beside")
        with gr.Row():
            upload = gr.UploadButton("Start from an image", elem_id="upload")
            remove = gr.Button("Remove the image", elem_id="remove")
            strength = gr.Slider(0, 1, 0.8, label="Strength", info="1 keeps a trace of the image", elem_id="strength")
        preview = gr.HTML(elem_id="preview")
        image, wanted = gr.State(), gr.State()

        asked = [prompt, seed, locked, n, steps, image, strength, beside]
        drawn = [line, grid, seed, base_line, base_grid, wanted]
        on([page.load, prompt.input], functools.partial(self.redraw, None), asked, drawn)
        on([renew.click], functools.partial(self.redraw, True), asked, drawn)
        changed = [e.input for e in (seed, n, steps, strength, beside)]
        on([*changed, image.change], functools.partial(self.redraw, False), asked, drawn)
        on([ask.click], self.draw_base, [prompt, seed, n], [base_line, base_grid])
        on([wanted.change], self.draw_beside, [wanted], [base_line, base_grid])
        on([upload.upload], self.read_upload, [upload], [line, image, preview])
        on([remove.click], lambda: (None, ""), [], [image, preview])

    def _build_interpolation(self, tab: gr.Tab) -> None:
        with gr.Row():
            prompt = gr.Textbox(PROMPT, label="From", max_length=MAX_CHARACTERS, elem_id="from")
            seed = gr.Number(3, label="Seed", precision=0, elem_id="from-seed")
        with gr.Row():
            other = gr.Textbox(OTHER, label="To", max_length=MAX_CHARACTERS, elem_id="to", placeholder="empty: the same prompt")
            other_seed = gr.Number(3, label="Seed", precision=0, elem_id="to-seed")
        frames = gr.Slider(2, MAX_PICTURES, 9, step=1, label="Pictures", elem_id="frames")
        grid = gr.HTML(elem_id="way")
        line = gr.HTML(elem_id="way-line")
        asked = [prompt, other, seed, other_seed, frames]
        on([tab.select, *[e.input for e in asked]], self.interpolate, asked, [line, grid])


def on(triggers: list, function: Callable, inputs: list, outputs: list) -> None:
    """Call `function` one at a time: what comes while it runs waits, and only the newest of it is done."""
    gr.on(
        triggers, function, inputs, outputs, trigger_mode="always_last", concurrency_limit=1, concurrency_id="models",
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip


def serve(studio: Studio, host: str, port: int | None, announce: Callable[[str], None]) -> None:
    """Serve the page until the process is interrupted; the page's files lie in a folder that is then removed.

    announce: called with the page's address. Raises `UserError` where host or port cannot be had.
    """
    _check_address(host, port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="ufogen-demo-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        page = Page(studio).build()
        try:
            page.launch(
                server_name=host, server_port=port, max_file_size=MAX_UPLOAD, state_session_capacity=MAX_SESSIONS,
                css=CSS % WIDTH, share=False, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False,
                run_history=False, footer_links=[], show_error=True, quiet=True, prevent_thread_lock=True,
            )  # fmt: skip
            announce(page.local_url)
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def said(line: str, wrong: bool = False) -> str:
    text = " ".join(line.split())
    return f'<div class="said{" wrong" * wrong}">{html.escape("error: " * wrong + text)}</div>'


def pictures(drawing: Drawing) -> str:
    """The pictures themselves stand in the HTML, so that no file is written and one answer brings them all."""
    cells = []
    for image, caption in zip(drawing.images, drawing.captions, strict=True):
        file = io.BytesIO()
        image.save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
        cells.append(f'<img src="data:image/png;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption>')
    return f'<div class="pictures">{"".join(f"<figure>{cell}</figure>" for cell in cells)}</div>'


def _check_address(host: str, port: int | None) -> None:
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"the port is {port}; allowed: 1 ... 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        socket.create_server(address, family=family).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the page cannot be served at {host}, port {port or 'any'}: {reason}") from error
