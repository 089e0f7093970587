"""A one-step model from Python: `UFOGen.from_pretrained(...)("a noun with a shark head", seed=3)` returns PIL images.

A picture is a function of model, prompt, seed and steps. Stock diffusers makes the same one, byte for byte on a CPU:
`pipe(prompt, num_inference_steps=1, guidance_scale=0, generator=torch.Generator().manual_seed(3))`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    DiffusionPipeline,
    LCMScheduler,
    StableDiffusionXLPipeline,
)
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ufogen.base.autoencoder import decode_latents, encode_images
from ufogen.base.loading import Pipeline, load_pipeline, naming, quiet
from ufogen.base.models import load_small
from ufogen.base.text import Conditioning, encode_prompts, text_encoders
from ufogen.data.images import Picture, open_image, open_mask, read_image
from ufogen.diffusion.sampling import step_timesteps
from ufogen.diffusion.schedule import CLEAN
from ufogen.errors import UserError
from ufogen.files import altered, sha256
from ufogen.inference.arguments import (
    MAX_PICTURES,
    Seeds,
    checked_count,
    checked_number,
    checked_prompts,
    checked_seed,
    checked_seeds,
    device_of,
    seeds_of_pictures,
)
from ufogen.inference.drawing import controlled_draw, from_any_timestep, load_controlnet
from ufogen.inference.export import refuse_sdxl, ufogen_scheduler
from ufogen.precision import DTYPES as PRECISIONS
from ufogen.precision import resolve_precision

RELEASED = "nouns-ufogen"  # U-Net and scheduler of the released one-step model
RELEASED_BASE = "nouns-sd"  # whose autoencoder it uses
RELEASED_CONTROL = "nouns-control"  # the ControlNet that was trained on that base
DTYPES = ("auto", "float32", "float16", "bfloat16")

Draw = Callable[[Conditioning, list[torch.Generator]], list[Image.Image]]  # of b prompts


class UFOGen:
    """A one-step text-to-image model, with image-to-image, inpainting and interpolation.

    Every method takes `seed`, a number in 0 ... 2^32 - 1: each picture has a generator of its own, so what else is asked
    for in the same call does not change it. An integer gives the n pictures of every prompt the seeds seed, seed + 1, ...;
    a list names the seed of each picture, in the order of the result: all n pictures of the first prompt, then of the next.

    `batch_size` is how many pictures are made at a time. With 1 the bytes are always the same on one machine. With more it is
    up to four times faster on a CPU, but torch then rounds sums differently, and a few of a picture's bytes differ by one.

    Methods raise `UserError`, whose message is one line, for anything that they cannot work with.
    """

    def __init__(self, pipeline: Pipeline, folder: Path | None = None):
        """Wrap a loaded pipeline. A scheduler of another kind than `LCMScheduler` is replaced by that of UFOGen's sampling."""
        self.folder, self.stock_scheduler = folder, type(pipeline.scheduler).__name__
        if not isinstance(pipeline.scheduler, LCMScheduler):
            pipeline.scheduler = ufogen_scheduler(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline

    @classmethod
    def from_pretrained(
        cls, path: str | Path | None = None, device: str | torch.device = "auto", dtype: str | torch.dtype = "float32"
    ) -> UFOGen:
        """Load a Stable Diffusion or SDXL folder from the disk; without `path` the released model of 32 px Nouns.

        An SDXL model draws and interpolates; image-to-image, inpainting and control refuse it.

        device: "auto" is a GPU where torch has one. dtype: float32, float16, bfloat16, or auto, which is bfloat16 where
        the device has instructions for it, else float32; an epsilon-predicting model wants float32, since the conversion to
        x_0 multiplies rounding errors by 15.
        """
        name = str(dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise UserError(f"dtype {name} is unknown; allowed: {', '.join(DTYPES)}")
        folder, target = released_folder() if path is None else Path(path), device_of(device)
        kind = PRECISIONS[resolve_precision("auto", target)] if name == "auto" else getattr(torch, name)
        with quiet():
            return cls(_load(folder).to(target, kind), folder)

    @property
    def device(self) -> torch.device:
        return self.pipeline.device

    @cached_property
    def sha256(self) -> str | None:
        """The hash of the U-Net's weights file, or of all its parts, which tells one trained model from another."""
        if self.folder is None:
            return None
        return sha256(self.folder / "unet")

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of its pictures."""
        size = self.pipeline.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return width * self.pipeline.vae_scale_factor, height * self.pipeline.vae_scale_factor

    def describe(self) -> dict:
        """What `ufogen info` prints."""
        pipeline, config = self.pipeline, self.pipeline.scheduler.config
        parts = {"unet": pipeline.unet, "vae": pipeline.vae, "text_encoder": pipeline.text_encoder}
        if isinstance(pipeline, StableDiffusionXLPipeline):
            parts["text_encoder_2"] = pipeline.text_encoder_2
        return {
            "model": str(self.folder),
            "pipeline": type(pipeline).__name__,
            "sha256": self.sha256,
            "image_size": list(self.image_size),
            "one_step": self.stock_scheduler == "LCMScheduler",
            "scheduler": self.stock_scheduler,
            "prediction_type": config.prediction_type,
            "entry_timestep": self._num_timesteps - 1,
            "timesteps": {steps: self._stock_timesteps(steps) for steps in (1, 2, 4)},
            "prompt_tokens": pipeline.tokenizer.model_max_length,
            "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
            "device": str(self.device),
            "dtype": str(pipeline.unet.dtype).removeprefix("torch."),
        }

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seed: Seeds = 0,
        steps: int = 1,
        n: int = 1,
        batch_size: int = 1,
        progress: bool = False,
    ) -> list[Image.Image]:
        """Draw n pictures of each prompt, in one step or several.

        The prompt's first tokens count, 34 in the released model (`reads_whole` tells); an empty one is allowed.
        `progress` shows a bar in a terminal when it takes longer than a second.
        """
        prompts = checked_prompts(prompt)
        checked_count("number of sampling steps", steps, 1, self.pipeline.scheduler.config.original_inference_steps)

        def draw(text: Conditioning, rngs: list[torch.Generator]) -> list[Image.Image]:
            settings = {"num_inference_steps": steps, "guidance_scale": 0.0}
            return self.pipeline(**text.arguments(), generator=rngs, **settings).images

        return self._each(draw, prompts, seed, n, batch_size, progress)

    def edit(
        self,
        image: Picture,
        prompt: str | Sequence[str],
        strength: float = 0.8,
        seed: Seeds = 0,
        *,
        steps: int = 1,
        n: int = 1,
        batch_size: int = 1,
        progress: bool = False,
    ) -> list[Image.Image]:
        """Image-to-image: noise the image to t = 1000 strength - 1, then one pass, or `steps` down from there.

        At strength 0 the image only passes through the autoencoder; at 1 a trace of it remains, as in diffusers (0.07 of
        the latent with Stable Diffusion's schedule). The image is cut to a square and resized.
        """
        refuse_sdxl(self.pipeline, "image-to-image")
        prompts, source = checked_prompts(prompt), open_image(image, self.image_size)
        timesteps = self._timesteps(checked_number("strength", strength, 0, 1), steps)
        latents = self._encode(source)
        if timesteps == [CLEAN]:
            kept = Image.fromarray(decode_latents(latents, self.pipeline.vae)[0])
            return self._each(lambda text, rngs: [kept.copy() for _ in rngs], prompts, seed, n, batch_size, progress)

        def draw(text: Conditioning, rngs: list[torch.Generator]) -> list[Image.Image]:
            return self._from(latents, timesteps, text, rngs)

        return self._each(draw, prompts, seed, n, batch_size, progress)

    def inpaint(
        self,
        image: Picture,
        mask: Picture,
        prompt: str | Sequence[str],
        seed: Seeds = 0,
        *,
        strength: float = 1.0,
        steps: int = 4,
        n: int = 1,
        batch_size: int = 1,
        progress: bool = False,
    ) -> list[Image.Image]:
        """Draw the mask's white part anew; all other pixels are those of the image, cut to a square and resized.

        One step at strength 1 begins with noise alone and cannot see what surrounds the mask, so the default is four.
        """
        refuse_sdxl(self.pipeline, "inpainting")
        prompts, opened = checked_prompts(prompt), read_image(image, "image")
        source, drawn = open_image(opened, self.image_size), open_mask(mask, self.image_size, opened.size)
        timesteps = self._timesteps(checked_number("strength", strength, 0, 1), steps)
        if timesteps == [CLEAN]:
            raise UserError(f"the strength is {strength}, too little to draw anything; allowed: above 0.001")
        latents = self._encode(source)
        # diffusers would sample the mask at one pixel of each latent position and miss thin ones
        area = F.max_pool2d(torch.from_numpy(drawn)[None].float(), self.pipeline.vae_scale_factor).to(latents)

        def draw(text: Conditioning, rngs: list[torch.Generator]) -> list[Image.Image]:
            images = self._from(latents, timesteps, text, rngs, area)
            return [Image.fromarray(np.where(drawn[..., None], new, source)) for new in images]

        return self._each(draw, prompts, seed, n, batch_size, progress)

    def control(
        self,
        image: Picture,
        prompt: str | Sequence[str],
        seed: Seeds = 0,
        *,
        controlnet: str | Path | None = None,
        scale: float = 1.0,
        steps: int = 1,
        n: int = 1,
        batch_size: int = 1,
        progress: bool = False,
    ) -> list[Image.Image]:
        """Draw pictures with the edges of an image, which is cut to a square and resized, by a ControlNet of the base.

        controlnet: its folder; without it the released one. scale: 0 leaves the edges out, 1 is what it was trained with.
        """
        refuse_sdxl(self.pipeline, "control")
        prompts, source = checked_prompts(prompt), open_image(image, self.image_size)
        checked_count("number of sampling steps", steps, 1, self._num_timesteps)
        folder = released_folder().with_name(RELEASED_CONTROL) if controlnet is None else Path(controlnet)
        with quiet():
            draw = controlled_draw(self.pipeline, load_controlnet(folder, self.pipeline), source, scale, steps)
        return self._each(draw, prompts, seed, n, batch_size, progress)

    def interpolate(
        self,
        prompt: str | Sequence[str],
        seed: Seeds = 0,
        frames: int = 9,
        *,
        batch_size: int = 1,
        progress: bool = False,
    ) -> list[Image.Image]:
        """One-step pictures on the way from one seed to another, from one prompt to another, or both at once.

        Give two of what is to change. Noise goes along the great circle, so that it stays noise; token states go along
        the line. The first and the last frame are the pictures of the two ends.
        """
        prompts, seeds = checked_prompts(prompt), checked_seeds(seed)
        if not (1 <= len(prompts) <= 2 and 1 <= len(seeds) <= 2):
            raise UserError(f"interpolation takes one or two prompts and seeds, got {len(prompts)} and {len(seeds)}")
        frames = checked_count("number of frames", frames, 2, MAX_PICTURES)
        ends, unet = self._text(prompts), self.pipeline.unet
        noise = [self.initial_noise(s) for s in seeds]
        way = [i / (frames - 1) for i in range(frames)]
        text = Conditioning(
            *(None if end is None else _line(end, way) for end in (ends.prompt_embeds, ends.pooled_prompt_embeds))
        )
        latents = torch.cat([slerp(noise[0], noise[-1], share) for share in way]).to(unet.device, unet.dtype)
        images = []
        for start in _bar(range(0, frames, checked_count("batch size", batch_size, 1)), None, progress):
            part = slice(start, start + batch_size)
            settings = {"num_inference_steps": 1, "guidance_scale": 0.0}
            images += self.pipeline(**text[part].arguments(), latents=latents[part], **settings).images
        return images

    def initial_noise(self, seed: int) -> Tensor:
        """x_T (1, c, h, w) of a seed's picture, on the CPU."""
        width, height = (side // self.pipeline.vae_scale_factor for side in self.image_size)
        shape = (1, self.pipeline.unet.config.in_channels, height, width)
        return torch.randn(shape, generator=torch.Generator().manual_seed(checked_seed(seed)))

    def reads_whole(self, prompt: str) -> bool:
        """Whether all of the prompt counts: what lies beyond the text encoder's number of tokens does not."""
        tokenizer = self.pipeline.tokenizer
        room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        return len(tokenizer.tokenize(checked_prompts(prompt)[0])) <= room

    def _from(
        self, latents: Tensor, timesteps: list[int], text: Conditioning, rngs: list[torch.Generator], area: Tensor | None = None
    ) -> list[Image.Image]:
        """Noise an image's latents (1, c, h, w) to the first of `timesteps`, and draw from there.

        area (1, h, w): 1 where to draw; elsewhere latents and noise are the image's throughout, and at T they are noise alone.
        What diffusers' pipelines for this do, which take four channels alone for latents.
        """
        scheduler, kept = self.pipeline.scheduler, latents.expand(len(rngs), -1, -1, -1)
        noise = randn_tensor(kept.shape, generator=rngs, device=self.device, dtype=latents.dtype)

        def noised(t: int) -> Tensor:
            return scheduler.add_noise(kept, noise, torch.tensor([t], device=self.device))

        def keep(_: DiffusionPipeline, step: int, t: Tensor, state: dict) -> dict:
            if area is not None:
                around = noised(timesteps[step + 1]) if step + 1 < len(timesteps) else kept
                state["latents"] = (1 - area) * around + area * state["latents"]
            return state

        pure = area is not None and timesteps[0] == self._num_timesteps - 1
        with from_any_timestep():
            return self.pipeline(
                **text.arguments(), latents=noise if pure else noised(timesteps[0]), timesteps=timesteps, generator=rngs,
                guidance_scale=0.0, callback_on_step_end=keep,
            ).images  # fmt: skip

    @property
    def _num_timesteps(self) -> int:
        return self.pipeline.scheduler.config.num_train_timesteps

    def _timesteps(self, strength: float, steps: int) -> list[int]:
        """`steps` timesteps, equally far apart, down from the one of this strength; [CLEAN] where that is below the first."""
        checked_count("number of sampling steps", steps, 1, self._num_timesteps)
        above = int(self._num_timesteps * strength)
        return step_timesteps(steps, above) if above else [CLEAN]

    def _stock_timesteps(self, steps: int) -> list[int]:
        self.pipeline.scheduler.set_timesteps(steps)
        return self.pipeline.scheduler.timesteps.tolist()

    def _each(self, draw: Draw, prompts: list[str], seed: Seeds, n: int, batch_size: int, progress: bool) -> list[Image.Image]:
        seeds = seeds_of_pictures(seed, len(prompts), n)
        text, index = self._text(prompts), torch.arange(len(prompts)).repeat_interleave(len(seeds) // len(prompts))
        images = []
        with _bar(None, len(seeds), progress) as bar:
            for start in range(0, len(seeds), checked_count("batch size", batch_size, 1)):
                part = slice(start, start + batch_size)
                rngs = [torch.Generator().manual_seed(s) for s in seeds[part]]
                images += draw(text[index[part]], rngs)
                bar.update(len(rngs))
        return images

    def _text(self, prompts: list[str]) -> Conditioning:
        """What the U-Net is told of n prompts, one prompt at a time: in a batch sums would round differently."""
        return encode_prompts(prompts, text_encoders(self.pipeline), batch_size=1)

    def _encode(self, image: Image.Image) -> Tensor:
        """The mean of the encoder's Gaussian, scaled: diffusers would draw from it, and the seed's noise would be another."""
        return encode_images(np.array(image)[None], self.pipeline.vae).to(self.pipeline.unet.dtype)


def released_folder() -> Path:
    """The released model: inside the installed package, or beside `src` where the repository is used in place."""
    here = Path(__file__).resolve().parents[1]
    for models in (here / "models", here.parents[1] / "models"):
        if (models / RELEASED / "unet").is_dir():
            return models / RELEASED
    raise UserError("this installation has no released model: name the folder of a model")


def released_base() -> Path | None:
    """The folder of the released model's base, where its denoiser is there too."""
    folder = released_folder().parent / RELEASED_BASE
    return folder if (folder / "unet").is_dir() else None


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The point at `share` of the way from a to b on the great circle (Shoemake 1985); a and b themselves at 0 and 1."""
    cosine = (a * b).sum() / (a.norm() * b.norm())
    angle = cosine.double().clamp(-1, 1).arccos()
    if angle.sin() < 1e-6:
        return a if share < 0.5 else b
    weights = ((1 - share) * angle).sin() / angle.sin(), (share * angle).sin() / angle.sin()
    return (weights[0] * a + weights[1] * b).to(a.dtype)


def _line(ends: Tensor, way: list[float]) -> Tensor:
    """Points at the shares `way` of the line from the first to the last of `ends` (n, ...)."""
    return torch.cat([torch.lerp(ends[:1], ends[-1:], share) for share in way])


def _load(folder: Path) -> Pipeline:
    name = f"model {folder}"
    if not folder.is_dir():
        raise UserError(f"{name} is not a folder")
    if (folder / "model_index.json").is_file():
        return load_pipeline(folder, name)
    if not (folder / "unet").is_dir():
        raise UserError(f"{name} is not a diffusers folder: it has neither model_index.json nor unet")
    owner = folder if (folder / "vae").is_dir() else folder.parent / RELEASED_BASE
    with naming(name):
        changed = altered(folder, "unet") + altered(owner, "vae")
    if changed:
        raise UserError(f"weights {', '.join(map(str, changed))} differ from the hash recorded beside them: get them again")
    return load_small(folder, owner, name, LCMScheduler)


def _bar(items: Iterable[int] | None, total: int | None, shown: bool) -> tqdm:
    """A bar on stderr, if that is a terminal, after a second; it leaves no line behind."""
    return tqdm(items, total=total, delay=1, leave=False, disable=None if shown else True)
