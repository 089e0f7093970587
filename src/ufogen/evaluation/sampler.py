"""From noise to images, noise -> latents -> images, for every method of the comparison and for every caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn

from ufogen.base.autoencoder import decode_latents
from ufogen.base.loading import Pipeline
from ufogen.base.text import Conditioning, encode_nothing, encode_prompts, text_encoders
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.sampling import SOLVERS, sample_base, sample_generator
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.randomness import torch_generator


@dataclass(frozen=True)
class Method:
    """A row of the comparison."""

    method: str  # ufogen, base, or another that is compared with them
    sampler: str  # renoise, or a solver of the base
    steps: int
    guidance: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.method}-{self.sampler}-{self.steps}"


def methods(
    names: Sequence[str], ufogen_steps: Sequence[int], base_steps: Sequence[int], guidance: float, parameter: str
) -> list[Method]:
    """UFOGen without guidance, the base's solvers with it. Raises `UserError`, naming `parameter`, for another name."""
    rows = []
    for name in names:
        if name == "ufogen":
            rows += [Method(name, "renoise", steps) for steps in ufogen_steps]
        elif name in SOLVERS:
            rows += [Method("base", name, steps, guidance) for steps in base_steps]
        else:
            raise UserError(f"parameter {parameter} has {name!r}; allowed: ufogen, {', '.join(SOLVERS)}")
    return rows


class Sampler:
    """A base and, where there is one, the generator trained from it, on one device, behind one call.

    Both are taken as they are; `load` brings them to a device and a precision first. Noise is drawn on the CPU from named
    seeds, so that every method and every device has the same.
    """

    def __init__(
        self,
        base: Pipeline,
        device: torch.device,
        generator: nn.Module | None = None,
        parameterization: str = "forward",
        entry: int = 0,
        timesteps: Callable[[int], Sequence[int]] | None = None,
    ):
        """A sampler of a base and a generator.

        entry: the timestep that pure noise enters the generator under; 0: the base's last.
        timesteps: of as many steps, where the generator's are others than `sampling.step_timesteps`.
        """
        self.base, self.device, self.generator, self.parameterization = base, device, generator, parameterization
        self.timesteps = timesteps
        self.schedule = Schedule.from_scheduler(base.scheduler).until(entry).to(device)

    @classmethod
    def load(
        cls,
        base: Pipeline,
        trained: tuple[UNet2DConditionModel, int] | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Sampler:
        """A sampler of the base and of a generator as `load_generator` returns it, both in `dtype`, for measuring."""
        unet, entry = trained or (None, 0)
        sampler = cls(for_sampling(base, device, dtype), device, entry=entry)
        if unet is not None:
            sampler.generator = sampler.denoiser(unet.to(device, dtype).eval())
        return sampler

    def denoiser(self, unet: nn.Module) -> Generator:
        """A U-Net that predicts what this base's does, as a map from x_t to x_0."""
        return Generator(unet, self.schedule, self.base.scheduler.config.prediction_type)

    @cached_property
    def empty(self) -> Conditioning:
        return encode_nothing(self.base)

    def encode(self, prompts: list[str]) -> Conditioning:
        return encode_prompts(prompts, text_encoders(self.base)).to(self.device)

    def noise(self, n: int, seed: int, *key: str | int) -> Tensor:
        """x_T (n, c, h, w) that depends on the seed and the key alone."""
        unet = self.base.unet.config
        rng = torch_generator("cpu", seed, *key)
        return torch.randn((n, unet.in_channels, unet.sample_size, unet.sample_size), generator=rng).to(self.device)

    def blocks(self, n: int, size: int, seed: int) -> Iterator[tuple[slice, Tensor, torch.Generator]]:
        """Rows, x_T and the source of fresh noise of each `size` of n prompts; of the seed and the block's number alone."""
        for block, start in enumerate(range(0, n, size)):
            rows = slice(start, min(start + size, n))
            fresh = torch_generator(self.device, seed, "fresh noise", block)
            yield rows, self.noise(rows.stop - start, seed, "initial noise", block), fresh

    def latents(
        self,
        method: Method,
        noise: Tensor,
        text: Conditioning,
        fresh: torch.Generator | None = None,
        network: nn.Module | None = None,
    ) -> Tensor:
        """x_0 (n, c, h, w) of `noise` as `method` makes it.

        fresh: source of the noise between the generator's steps.
        network: takes the place of the method's own, as an average or a network under control does.
        """
        if method.sampler == "renoise":
            return sample_generator(
                self.generator if network is None else network, noise, text.prompt_embeds, self.schedule, method.steps, fresh,
                self.parameterization, pooled_prompt_embeds=text.pooled_prompt_embeds,
                timesteps=None if self.timesteps is None else self.timesteps(method.steps),
            )  # fmt: skip
        return sample_base(
            self.base.unet if network is None else network, noise, text.prompt_embeds, self.empty.prompt_embeds[0],
            self.base.scheduler.config, method.steps, method.guidance, method.sampler,
            text.pooled_prompt_embeds, self.empty.pooled_prompt_embeds,
        )  # fmt: skip

    def decode(self, latents: Tensor) -> np.ndarray:
        """Images (n, H, W, 3) uint8."""
        return decode_latents(latents, self.base.vae)

    def images(
        self,
        method: Method,
        noise: Tensor,
        text: Conditioning,
        fresh: torch.Generator | None = None,
        network: nn.Module | None = None,
    ) -> np.ndarray:
        """`latents`, decoded."""
        return self.decode(self.latents(method, noise, text, fresh, network))

    def sample(self, method: Method, text: Conditioning, size: int, seed: int, network: nn.Module | None = None) -> np.ndarray:
        """Images for all of `text`, block by block; see `blocks`."""
        blocks = self.blocks(len(text), size, seed)
        return np.concatenate([self.images(method, noise, text[rows], fresh, network) for rows, noise, fresh in blocks])


def for_sampling(base: Pipeline, device: torch.device, dtype: torch.dtype) -> Pipeline:
    """The pipeline on the device in that dtype, but SDXL's autoencoder, which overflows in float16, in float32."""
    base = base.to(device, dtype)
    if isinstance(base, StableDiffusionXLPipeline) and base.vae.config.force_upcast:
        base.vae.float()
    return base
