"""A diffusers pipeline's weights under the names of Stable Diffusion's original layout, for one .safetensors file."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def save_original(pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline, path: Path) -> None:
    """U-Net, VAE and text encoder, or SDXL's two, as one file."""
    sdxl = isinstance(pipeline, StableDiffusionXLPipeline)
    weights = {f"model.diffusion_model.{unet_name(key, sdxl)}": value for key, value in pipeline.unet.state_dict().items()}
    for key, value in pipeline.vae.state_dict().items():
        name = vae_name(key)
        projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        weights[f"first_stage_model.{name}"] = value[..., None, None] if projection else value
    clip, openclip = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
    text = pipeline.text_encoder.state_dict()
    if sdxl:
        clip, openclip = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
        second = pipeline.text_encoder_2.state_dict()
        weights |= {openclip + key: value for key, value in openclip_weights(second).items()}
        weights[f"{openclip}text_projection"] = second["text_projection.weight"].T
    if pipeline.text_encoder.config.hidden_act == "quick_gelu":
        weights |= {clip + key.removeprefix("text_model."): value for key, value in text.items()}
    else:
        weights |= {openclip + key: value for key, value in openclip_weights(text).items()}
    save_file({key: value.contiguous() for key, value in weights.items()}, path)


def unet_name(key: str, sdxl: bool = False) -> str:
    """Three entries a level: two of a residual block and an attention each, and one that changes the size."""
    for ours, theirs in UNET_ENDS.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, theirs)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        kind, j, rest = match[1], int(match[2]), match[3]
        return f"middle_block.{2 * j if kind == 'resnets' else 1}.{_resnet(rest) if kind == 'resnets' else rest}"
    side, i, kind, j, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", key).groups()
    i, j = int(i), int(j)
    blocks, number = ("input_blocks", 1 + 3 * i + j) if side == "down" else ("output_blocks", 3 * i + j)
    if kind == "resnets":
        return f"{blocks}.{number}.0.{_resnet(rest)}"
    if kind == "attentions":
        return f"{blocks}.{number}.1.{rest}"
    if kind == "downsamplers":
        return f"{blocks}.{3 * (i + 1)}.0.{rest.replace('conv', 'op')}"
    return f"{blocks}.{3 * i + 2}.{1 if i == 0 and not sdxl else 2}.{rest}"  # without attention 1


def vae_name(key: str) -> str:
    key = re.sub(r"conv_norm_out", "norm_out", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if match := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.*)\.(\w+)", key):
        return f"{match[1]}.mid.attn_1.{VAE_ATTENTION[match[2]]}.{match[3]}"
    key = key.replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", key)


def openclip_weights(text: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder of Stable Diffusion 2 as OpenCLIP names it: one matrix for queries, keys and values."""
    found = {}
    names = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias",
    }  # fmt: skip
    layer = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    layer |= {"self_attn.out_proj": "attn.out_proj"}
    for key, value in text.items():
        key = key.removeprefix("text_model.")
        if key in names:
            found[names[key]] = value
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", key):
            number, part, kind = match.groups()
            block = f"transformer.resblocks.{number}"
            if part in layer:
                found[f"{block}.{layer[part]}.{kind}"] = value
            elif part == "self_attn.q_proj":
                three = [text[key_of] for key_of in (_swap(text, number, f"{p}_proj", kind) for p in "qkv")]
                found[f"{block}.attn.in_proj_{kind}"] = torch.cat(three)
    return found


def _swap(text: dict[str, Tensor], number: str, part: str, kind: str) -> str:
    return next(key for key in text if key.endswith(f"encoder.layers.{number}.self_attn.{part}.{kind}"))


def _resnet(rest: str) -> str:
    head, _, kind = rest.rpartition(".")
    return f"{RESNET[head]}.{kind}"
