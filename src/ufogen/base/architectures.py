"""The architectures of Stable Diffusion 1.5, 2.1 and XL, in diffusers' and transformers' terms, known without a network."""

from __future__ import annotations

from typing import Any

_NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "act_fn": "silu",
    "norm_num_groups": 32,
}
_CLIP = {"vocab_size": 49408, "max_position_embeddings": 77, "layer_norm_eps": 1e-5}

# sample_size is the latent's side; attention_head_dim is the number of heads, as in this class it always was
ARCHITECTURES: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {
        "unet": _UNET | {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        "vae": _VAE | {"sample_size": 512},
        "text_encoder": _CLIP
        | {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
        | {"hidden_act": "quick_gelu", "projection_dim": 768},
        "tokenizer": {"pad_token": "<|endoftext|>"},
        "scheduler": _NOISE | {"_class_name": "PNDMScheduler"},
    },
    "sd21": {
        "unet": _UNET
        | {"sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20)}
        | {"use_linear_projection": True, "upcast_attention": True},
        "vae": _VAE | {"sample_size": 768},
        "text_encoder": _CLIP
        | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
        | {"hidden_act": "gelu", "projection_dim": 512},
        "tokenizer": {"pad_token": "!"},
        "scheduler": _NOISE | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    },
    "sdxl": {
        "unet": _UNET
        | {"sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20)}
        | {"block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True}
        | {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")}
        | {"up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")}
        | {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        | {"projection_class_embeddings_input_dim": 2816},
        "vae": _VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        "text_encoder": _CLIP
        | {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
        | {"hidden_act": "quick_gelu", "projection_dim": 768},
        "tokenizer": {"pad_token": "<|endoftext|>"},
        "text_encoder_2": _CLIP
        | {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
        | {"hidden_act": "gelu", "projection_dim": 1280},
        "tokenizer_2": {"pad_token": "!"},
        "scheduler": _NOISE | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    },
}
