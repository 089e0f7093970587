"""Export of a trained generator to an ordinary StableDiffusionPipeline or StableDiffusionXLPipeline folder."""

from __future__ import annotations

from pathlib import Path

from diffusers import LCMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

from ufogen.base.loading import NO_CHECKER, Pipeline, save_pipeline
from ufogen.errors import UserError


def ufogen_scheduler(config: dict, entry: int = 0) -> LCMScheduler:
    """A stock scheduler that makes stock diffusers do UFOGen sampling with the noise schedule of `config`.

    With 1,000 original steps its timesteps are 999 for one step and 999, 749, 499, 249 for four; there its boundary
    coefficients are c_skip = 0 and c_out = 1 to seven digits, so a step is x_0 noised again, and the last one x_0 itself.
    Where noise enters at a smaller timestep than T - 1, `entry`, the schedule ends there.
    """
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    kept = {key: config.get(key) for key in keys}
    if entry:
        kept |= _ended(kept, entry)
    steps = kept["num_train_timesteps"]
    return LCMScheduler(**kept, original_inference_steps=steps, clip_sample=False, steps_offset=1)


def _ended(config: dict, entry: int) -> dict:
    """What a scheduler's configuration says otherwise where the same betas end at timestep `entry`."""
    if config["trained_betas"] is None and config["beta_schedule"] in ("scaled_linear", "linear"):
        power = 2 if config["beta_schedule"] == "scaled_linear" else 1
        start, end = (config[key] ** (1 / power) for key in ("beta_start", "beta_end"))
        last = start + (end - start) * entry / (config["num_train_timesteps"] - 1)
        return {"num_train_timesteps": entry + 1, "beta_end": last**power}
    betas = LCMScheduler(**config).betas[: entry + 1].tolist()
    return {"num_train_timesteps": entry + 1, "trained_betas": betas}


def export_pipeline(base: Pipeline, unet: UNet2DConditionModel, folder: str | Path, entry: int = 0) -> Pipeline:
    """Write `base` with its denoiser replaced by the trained generator. Call it with guidance_scale=0."""
    components = dict(base.components) | {"unet": unet, "scheduler": ufogen_scheduler(base.scheduler.config, entry)}
    if isinstance(base, StableDiffusionXLPipeline):
        settings = {"force_zeros_for_empty_prompt": base.config.force_zeros_for_empty_prompt, "add_watermarker": False}
    else:
        settings = NO_CHECKER
    pipeline = type(base)(**components | settings)
    save_pipeline(pipeline, folder)
    return pipeline


def refuse_sdxl(base: Pipeline, what: str) -> None:
    """Raise `UserError` where the base is SDXL, for what takes token states alone."""
    if isinstance(base, StableDiffusionXLPipeline):
        raise UserError(f"{what} with an SDXL base is not supported; allowed: a StableDiffusionPipeline")
