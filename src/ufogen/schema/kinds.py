"""The kinds of values that parameters have, each with its range."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, Strict

SECTION = ConfigDict(extra="forbid")  # an unknown key is an error

Count = Annotated[int, Strict(), Field(ge=1)]
Seed = Annotated[int, Strict(), Field(ge=0, le=2**32 - 1)]  # torch takes 64 bits, the command line 32
Threads = Annotated[int, Strict(), Field(ge=1, le=1024)]  # OpenMP ends the process where the system has no more
Side = Annotated[int, Strict(), Field(ge=0, le=8192)]  # pixels
Rank = Annotated[int, Strict(), Field(ge=0, le=4096)]  # of an adapter
Whole = Annotated[int, Strict(), Field(ge=0)]
Number = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
LogSigma = Annotated[float, Strict(), Field(ge=-5, le=5, allow_inf_nan=False)]
Share = Annotated[float, Strict(), Field(ge=0, le=1, allow_inf_nan=False)]
Decay = Annotated[float, Strict(), Field(ge=0, lt=1, allow_inf_nan=False)]  # of a moving average
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Counts = Annotated[list[Count], Field(min_length=1)]
Names = Annotated[list[Text], Field(min_length=1)]

Device = Literal["auto", "cpu", "cuda"]
# auto: bf16 where the processor or GPU computes in it, else no (precision.py). YAML reads a bare no as false.
Precision = Annotated[Literal["auto", "no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)]
Heads = Literal["output", "both", "levels"]  # of the discriminator (diffusion/networks.py)
ResizeFilter = Literal["box", "bilinear", "bicubic", "lanczos"]  # Pillow's, with antialiasing
CocoSplit = Literal["train2014", "val2014", "train2017", "val2017"]
Solver = Literal["ddim", "dpm++"]  # diffusion/sampling.py
Optimizer = Literal["adam", "muon"]  # of the base (base/muon.py)
Gamma = Literal["snr", "truncated_snr", "constant"]


class Refused(ValueError):
    """A value that does not go with the others of its section: its key from there on, itself, and what is allowed."""

    def __init__(self, key: str, value: Any, allowed: str):
        super().__init__(f"{key} is {value!r}; allowed: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed
