"""CLIP score: how well an image and its caption agree, by OpenCLIP's networks in transformers' layout."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from ufogen.errors import UserError

DEFINITION = (
    "mean over the images of the cosine between image and caption embedding, in [-1, 1]; neither clipped at 0 nor scaled, "
    "no prompt before the caption; images as sampled, then the processor's own resize and crop (Pillow)"
)


def load(name: str) -> tuple[CLIPModel, CLIPProcessor]:
    """Network, float32 on the CPU, and its preprocessing, from a folder or from the hub.

    Raises `UserError` where it cannot be had, is no CLIP, or lacks weights.
    """
    try:
        kind = AutoConfig.from_pretrained(name).model_type
        if kind != "clip":
            raise UserError(f"parameter coco.clip names {name}, which is a {kind} network; allowed: clip")
        model, info = CLIPModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        processor = CLIPProcessor(CLIPImageProcessorPil.from_pretrained(name), CLIPTokenizer.from_pretrained(name))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"CLIP {name} cannot be loaded: {reason} Set coco.clip to folders in transformers' layout") from error
    if info["missing_keys"]:  # transformers would go on with random ones
        raise UserError(f"CLIP {name} lacks {len(info['missing_keys'])} weights, among them {min(info['missing_keys'])}")
    return model.eval().requires_grad_(False), processor


@torch.inference_mode()
def cosines(images: np.ndarray, captions: list[str], model: CLIPModel, processor: CLIPProcessor) -> np.ndarray:
    """Cosine (n,) float32 of each image (n, h, w, 3) uint8 with its caption; a long caption is cut at the network's length."""
    inputs = processor(
        text=captions,
        images=[Image.fromarray(image) for image in images],
        padding="max_length",
        truncation=True,
        max_length=model.config.text_config.max_position_embeddings,
        return_tensors="pt",
    ).to(model.device)
    output = model(**inputs)
    return (output.image_embeds * output.text_embeds).sum(1).cpu().numpy()


def weights_sha256(model: CLIPModel) -> str:
    """The hash of all weights in the order of their names: the same for every way to store them."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.cpu().numpy().tobytes())
    return digest.hexdigest()
