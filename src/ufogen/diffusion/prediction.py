"""What the network predicts, converted: noise (epsilon), velocity (v_prediction) or the clean sample (sample).

Names are those of diffusers' `prediction_type`. At high t the conversion from epsilon to x_0 multiplies the network's
error by sqrt((1 - alpha_bar_t) / alpha_bar_t), 14.6 at t = 999 of Stable Diffusion 1.5, so it is done in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ufogen.diffusion.schedule import Schedule

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def predict_x_0(output: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule, prediction_type: str) -> Tensor:
    """x'_0 (b, c, h, w), float32 or wider, from the network's output at (x_t, t)."""
    output, x_t = _widen(output), _widen(x_t)
    alpha_bar = schedule.alpha_bar(t, like=x_t)
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction_type == "epsilon":
        return (x_t - noise * output) / signal
    if prediction_type == "v_prediction":
        return signal * x_t - noise * output
    _check(prediction_type)
    return output


def training_target(x_0: Tensor, noise: Tensor, t: Tensor, schedule: Schedule, prediction_type: str) -> Tensor:
    """What the network should output for x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        alpha_bar = schedule.alpha_bar(t, like=x_0)
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_0
    _check(prediction_type)
    return x_0


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check(prediction_type: str) -> None:
    if prediction_type != "sample":
        raise ValueError(f"prediction_type is {prediction_type!r}, allowed are {', '.join(PREDICTION_TYPES)}")
