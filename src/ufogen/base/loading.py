"""The one way to load networks and pipelines from the disk, and to write them, for training, sampling and the page alike.

What cannot be loaded is a `UserError` of one line that names it. A loader that filled in a weight by itself counts as failed.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel, PreTrainedModel

from ufogen.base.configuration import NETWORKS, PARTS, Family, check_configuration, class_of, weights_variant
from ufogen.errors import UserError

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline
NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
NO_DATA = "Cannot copy out of meta tensor"  # torch's word for a weight that a file lacks
LONGEST_REASON = 300  # characters; a loader may list all of a network's weights


def load_pipeline(folder: str | Path, name: str, family: Family | None = None, *, allow_pickle: bool = True) -> Pipeline:
    """A Stable Diffusion or SDXL folder in float32 and evaluation mode, without asking any hub.

    A safety checker and a feature extractor, which nothing here uses, are left out, present or not. Raises `UserError`,
    which calls the folder `name`, where a part is missing, is incomplete or does not fit.
    """
    folder = Path(folder)
    found = check_configuration(folder, name, family)
    index, kind = found["index"], getattr(diffusers, found["index"]["_class_name"])
    networks = [part for part in NETWORKS if part in found]
    for part in networks:
        weights_variant(folder / part, name, allow_pickle)  # all of them before the first is read
    parts = {}
    with naming(name):
        for part in PARTS[kind.__name__]:
            if part not in networks:
                parts[part] = class_of(index, part, name).from_pretrained(folder / part, local_files_only=True)
    for part in networks:
        if part.startswith("text_encoder"):
            _check_length(name, parts[part.replace("text_encoder", "tokenizer")], found[part])
        parts[part] = load_part(class_of(index, part, name), folder / part, name, allow_pickle=allow_pickle)
    if kind is StableDiffusionXLPipeline:
        zeros = index.get("force_zeros_for_empty_prompt", True)
        return kind(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
    with quiet():
        return kind(**parts, **NO_CHECKER)


def load_part(
    kind: type[nn.Module], folder: str | Path, name: str, dtype: torch.dtype = torch.float32, *, allow_pickle: bool = True
) -> nn.Module:
    """A network of diffusers or transformers from its own folder, in evaluation mode.

    Raises `UserError`, which calls it `name`, where weights are missing: both libraries would go on with random ones.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{name} cannot be loaded: {folder} is not a folder")
    settings = {"variant": weights_variant(folder, name, allow_pickle), "use_safetensors": None if allow_pickle else True}
    settings["dtype" if issubclass(kind, PreTrainedModel) else "torch_dtype"] = dtype
    with naming(name):
        network, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **settings)
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(
            f"{name} cannot be loaded: its {folder.name} lacks {len(missing)} of its weights, among them {missing[0]}: "
            "get its files again"
        )
    if report["missing_keys"]:  # BERT's pooler, which no prompt passes through, would be random
        network.pooler = None
    return network.eval()


def load_base(folder: str | Path) -> Pipeline:
    """The base of a training, as `initialize` wrote it."""
    return load_pipeline(folder, f"base.path {folder}")


def save_pipeline(pipeline: Pipeline, folder: str | Path) -> None:
    """Write an ordinary diffusers folder that transformers 4 and 5 read alike.

    transformers 5 alone would write CLIP's text encoder under the names that it was read by, which are without the prefix
    `text_model.` where the source was a single file, and tokenizers without a vocabulary: version 4 would then go on with
    random weights, and find no tokenizer.
    """
    with quiet():
        pipeline.save_pretrained(folder)
    for path in Path(folder).glob("tokenizer*/tokenizer.json"):
        _write_vocabulary(path)
    if isinstance(pipeline.text_encoder, CLIPTextModel):
        for path in (Path(folder) / "text_encoder").glob("*.safetensors"):
            weights = load_file(path)
            if not all(key.startswith("text_model.") for key in weights):
                save_file({f"text_model.{key}": value for key, value in weights.items()}, path, metadata={"format": "pt"})


def _write_vocabulary(path: Path) -> None:
    """Beside a tokenizer.json the files of older readers: vocab.json and merges.txt of CLIP, vocab.txt of BERT."""
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    files = {"vocab.txt": "\n".join(sorted(model["vocab"], key=model["vocab"].get))}
    if "merges" in model:
        merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
        files = {"vocab.json": json.dumps(model["vocab"]), "merges.txt": "\n".join(["#version: 0.2", *merges])}
    for name, text in files.items():
        path.with_name(name).write_text(f"{text}\n", encoding="utf-8")


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Quietly; whatever a library's loader raises becomes one line that names what was loaded."""
    try:
        with quiet():
            yield
    except UserError:
        raise
    except Exception as error:  # diffusers and transformers raise many kinds for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = "some of its weights are missing" if NO_DATA in reason else reason
        raise UserError(f"{name} cannot be loaded: {reason[:LONGEST_REASON]}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' bars and remarks, such as on a text encoder that is not CLIP's and on weights that are missing."""
    libraries = diffusers.utils.logging, transformers.utils.logging
    levels, bars = (
        [logging.get_verbosity() for logging in libraries],
        [logging.is_progress_bar_enabled() for logging in libraries],
    )
    try:
        for logging in libraries:
            logging.set_verbosity_error()
            logging.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logging, level, bar in zip(libraries, levels, bars, strict=True):
            logging.set_verbosity(level)
            if bar:
                logging.enable_progress_bar()


def load_generator(folder: Path, name: str) -> tuple[UNet2DConditionModel, int]:
    """The U-Net of a trained generator, called `name`, and the timestep at which its scheduler says that noise enters.

    The timestep is 0, which stands for the base's last one, where the folder has no scheduler.
    """
    unet = load_part(UNet2DConditionModel, folder / "unet", name)
    if not (folder / "scheduler").is_dir():
        return unet, 0
    with naming(name):
        return unet, LCMScheduler.load_config(folder / "scheduler", local_files_only=True)["num_train_timesteps"] - 1


def _check_length(name: str, tokenizer, encoder: dict) -> None:
    """A tokenizer without a length of its own says 10^30, and every prompt would be padded to it."""
    room = encoder.get("max_position_embeddings")
    if isinstance(room, int) and tokenizer.model_max_length > room:
        raise UserError(
            f"{name} has a tokenizer with model_max_length {tokenizer.model_max_length}; allowed: at most {room}, which "
            "its text encoder can read: set it in tokenizer_config.json"
        )
