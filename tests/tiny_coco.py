"""The smallest real parts of a COCO evaluation: a folder of pictures, stand-ins for Inception's weights and for a CLIP."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from tests import tiny
from ufogen.evaluation.inception import LAYER, NAME, Network

SIDE, LENGTH = 32, 16  # pixels and tokens that the CLIP sees


def pictures(n: int, side: int = 24, seed: int = 0) -> np.ndarray:
    """Smooth images (n, side, side, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), np.uint8)
    return np.stack([np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) for image in coarse])


def coco_folder(folder: Path, n: int, split: str = "val2017") -> Path:
    """`n` images with two captions each."""
    (folder / "annotations").mkdir(parents=True)
    (folder / split).mkdir()
    for i, picture in enumerate(pictures(n, side=40, seed=1)):
        Image.fromarray(picture[:30]).save(folder / split / f"{i:012d}.png")
    captions = [
        {"id": 2 * i + j, "image_id": i, "caption": f"a noun {'with'[: i % 5]} {j}"} for i in range(n) for j in range(2)
    ]
    content = {"images": [{"id": i, "file_name": f"{i:012d}.png"} for i in range(n)], "annotations": captions}
    (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    return folder


def inception_weights(folder: Path) -> Path:
    """Random weights in the format of torch-fidelity's Inception v3, scaled so that its features keep some variance."""

    class Blank(Network):
        def load_state_dict(self, *_: object) -> None:
            pass

    path = folder / "inception.pth"
    torch.save({}, path)
    torch.manual_seed(0)
    network = Blank(NAME, [LAYER], feature_extractor_weights_path=str(path))
    for name, weights in network.named_parameters():
        if name.endswith("bn.weight"):
            weights.fill_(2.5)
    torch.save(network.state_dict(), path)
    return path


def clip_folder(folder: Path, seed: int = 0) -> Path:
    """A random CLIP with a vocabulary of letters, in transformers' layout."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = letters + [f"{letter}</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(seed)
    model = CLIPModel(
        CLIPConfig(
            text_config=small | ends | {"vocab_size": len(words), "max_position_embeddings": LENGTH},
            vision_config=small | {"image_size": SIDE, "patch_size": 8},
            projection_dim=8,
        )
    )
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    CLIPProcessor(CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size), tokenizer).save_pretrained(folder)
    return folder


def models(folder: Path) -> tuple[Path, Path]:
    """A base and a folder with a generator's U-Net."""
    tiny.pipeline(seed=0).save_pretrained(folder / "base")
    tiny.unet(seed=1).save_pretrained(folder / "generator" / "unet")
    return folder / "base", folder / "generator"
