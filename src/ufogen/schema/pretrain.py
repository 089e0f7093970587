"""How the released base is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ufogen.schema.kinds import (
    SECTION,
    Count,
    Counts,
    Decay,
    Flag,
    Number,
    Optimizer,
    Precision,
    Refused,
    Share,
    Text,
    Whole,
)


@dataclass(config=SECTION)
class AutoencoderRound:
    """A round of training that continues the one before: warm-up, then a cosine decay to nothing."""

    updates: Count
    learning_rate: Number
    kl_weight: Number
    absolute_error: Flag  # beside the squared one; low-contrast detail weighs more in it
    latent_noise: Number  # scale of the noise on the decoder's input, in units of the latents' standard deviation
    optimizer: Optimizer


@dataclass(config=SECTION)
class Autoencoder:
    """Architecture and training of the AutoencoderKL (factor 4)."""

    channels: Counts
    latent_channels: Count
    rounds: Annotated[list[AutoencoderRound], Field(min_length=1)]
    batch_size: Count
    warmup: Whole
    ema_decay: Decay  # 0: the last weights are the result
    precision: Precision


@dataclass(config=SECTION)
class DenoiserRound:
    """A round of training that continues the one before: warm-up, then a cosine decay to nothing."""

    updates: Count
    learning_rate: Number
    batch_size: Count  # over all processes
    prediction_type: Literal["epsilon", "v_prediction"]
    autoencoder_round: Whole  # whose latents it learns, counted from 0
    decay: Literal["cosine", "constant"]  # constant: can be continued; the last stretch is to decay
    optimizer: Optimizer
    weight_decay: Number  # of Muon: a step shrinks matrices by the learning rate times this


@dataclass(config=SECTION)
class Denoiser:
    """Architecture and training of the UNet2DConditionModel."""

    channels: Counts
    attention: Literal["lower", "all"]  # cross-attention at every level but the highest, or at all
    heads: Count
    max_length: Count  # tokens of a caption
    caption_dropout: Share
    rounds: Annotated[list[DenoiserRound], Field(min_length=1)]
    warmup: Whole
    ema_decay: Decay
    precision: Precision
    compile: Flag
    chunk_size: Count  # captions that are encoded together ...
    images_per_caption: Count  # ... with this many fresh images that fit it; one a pass ...
    passes: Count  # ... over the captions, before the next chunk
    checkpoint_every: Count
    curve_every: Whole  # updates between measurements of what it draws, each with a snapshot; 0: none
    resume: Text  # folder of a snapshot to continue from


@dataclass(config=SECTION)
class Decoder:
    """Training of the decoder alone, on noisy latents and against a patch discriminator; the encoder stays."""

    updates: Count
    learning_rate: Number
    batch_size: Count
    warmup: Whole
    latent_noise: Number  # scale of its standard deviation, which is drawn for each item
    adversarial_weight: Number
    adversarial_warmup: Whole  # updates over which the weight rises from nothing
    discriminator_learning_rate: Number
    discriminator_channels: Count
    r1_weight: Number
    r1_interval: Count
    ema_decay: Decay


@dataclass(config=SECTION)
class Pretrain:
    """The recipe of the released base."""

    autoencoder: Autoencoder
    denoiser: Denoiser
    decoder: Decoder
    validation_size: Count  # held images, and captions for the denoiser
    curve_size: Count  # of these captions, drawn at each point of the denoiser's curve

    @model_validator(mode="after")
    def _latents_are_of_a_round(self) -> Pretrain:
        last = len(self.autoencoder.rounds) - 1
        for number, round_ in enumerate(self.denoiser.rounds):
            if round_.autoencoder_round > last:
                key = f"denoiser.rounds[{number}].autoencoder_round"
                raise Refused(key, round_.autoencoder_round, f"a whole number, 0 ... {last}")
        return self
