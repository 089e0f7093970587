"""Weights that a file lacks are named, wherever a network is loaded; parts that nothing uses may be absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import BertModel

from tests import tiny
from tests.base.spoiled import linked_copy
from tests.base.test_configuration import LOADERS
from tests.original import save_original
from tests.settings import make_base
from ufogen import UFOGen
from ufogen.applications.control import make_control
from ufogen.base.checkpoints import load_checkpoint
from ufogen.base.configuration import NETWORKS
from ufogen.base.loading import load_base, load_part, save_pipeline
from ufogen.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("folders")
    made = {"bert": tiny.pipeline(), "sd15": tiny.stable_diffusion("sd15"), "sdxl": tiny.sdxl()}
    for name, pipeline in made.items():
        tiny.save_as_published(pipeline, place / name) if name != "bert" else pipeline.save_pretrained(place / name)
    return {name: place / name for name in made}


@pytest.fixture
def copy(folders, tmp_path):
    return lambda name: linked_copy(folders[name], tmp_path / name)


def cut(part: Path, index: int) -> str:
    """Take one weight out of a part's file."""
    (file,) = part.glob("*.safetensors")
    weights = load_file(file)
    key = sorted(weights)[index]
    del weights[key]
    file.unlink()
    save_file(weights, file, metadata={"format": "pt"})
    return key.removeprefix("text_model.")


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("index", [0, 7, -1])
def test_weight_that_is_missing_is_named(copy, load, part, index):
    folder = copy("sdxl" if part == "text_encoder_2" else "bert")
    key = cut(folder / part, index)
    with pytest.raises(
        UserError, match=f"cannot be loaded: its {part} lacks 1 of its weights, among them .*{key}: get"
    ) as raised:
        load(folder)
    assert "\n" not in str(raised.value)


def test_layer_that_no_prompt_passes_through_may_be_missing(copy, tmp_path):
    """BERT's pooler: what the loader would fill in at random is left out, so the base that is written is always the same."""
    folder = copy("bert")
    assert not any(key.startswith("pooler") for key in load_file(folder / "text_encoder/model.safetensors"))
    base = load_base(folder)
    assert base.text_encoder.pooler is None
    save_pipeline(base, tmp_path / "written")
    assert (
        load_file(tmp_path / "written/text_encoder/model.safetensors").keys()
        == load_file(folder / "text_encoder/model.safetensors").keys()
    )


@pytest.mark.parametrize("key", [
    "model.diffusion_model.time_embed.0.bias", "first_stage_model.decoder.conv_in.bias", "first_stage_model.quant_conv.weight",
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    "cond_stage_model.transformer.text_model.final_layer_norm.bias",
])  # fmt: skip
def test_weight_that_a_single_file_lacks_is_one_line(folders, tmp_path, key):
    file = tmp_path / "one.safetensors"
    save_original(tiny.stable_diffusion("sd15"), file)
    weights = load_file(file)
    del weights[key]
    save_file(weights, file)
    with pytest.raises(UserError, match="one.safetensors (lacks some weights of its|cannot be loaded)") as raised:
        load_checkpoint(make_base("sd15", str(file), config=str(folders["sd15"])))
    assert "\n" not in str(raised.value)


def test_controlnet_that_lacks_a_weight_is_one_line(tmp_path):
    model = UFOGen(tiny.pipeline())
    make_control("controlnet", model.pipeline.unet, 2).save_pretrained(tmp_path / "control")
    key = cut(tmp_path / "control", 3)
    with pytest.raises(UserError, match=f"control network .* cannot be loaded: .* among them {key}"):
        model.control(model("a noun")[0], "a noun", controlnet=tmp_path / "control")


def test_network_of_either_library_is_checked(copy):
    folder = copy("bert")
    for kind, part in ((UNet2DConditionModel, "unet"), (BertModel, "text_encoder")):
        assert not load_part(kind, folder / part, "mine").training
        cut(folder / part, 0)
        with pytest.raises(UserError, match=f"mine cannot be loaded: its {part} lacks 1 of its weights"):
            load_part(kind, folder / part, "mine")


# parts that nothing uses


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_parts_that_are_never_used_may_be_absent(copy, load):
    folder = copy("bert")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    }
    (folder / "model_index.json").unlink()
    (folder / "model_index.json").write_text(json.dumps(index))
    assert load(folder) is not None


# variants


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_variant_that_stands_alone_is_loaded(copy, load, variant):
    folder = copy("bert")
    for part in ("unet", "text_encoder"):
        (file,) = (folder / part).glob("*.safetensors")
        weights = {key: value.half() if value.is_floating_point() else value for key, value in load_file(file).items()}
        file.unlink()
        save_file(weights, file.with_suffix(f".{variant}.safetensors"), metadata={"format": "pt"})
    pipeline = getattr(load(folder), "pipeline", None) or load(folder)
    assert pipeline.unet.dtype == pipeline.text_encoder.dtype == torch.float32
    assert torch.equal(tiny.flat(pipeline.unet), tiny.flat(tiny.unet()).half().float())


def test_whole_weights_are_preferred_and_other_variants_named(copy):
    folder = copy("bert")
    (file,) = (folder / "unet").glob("*.safetensors")
    (folder / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"damaged")
    assert torch.equal(tiny.flat(load_base(folder).unet), tiny.flat(tiny.unet()))
    (folder / "unet/diffusion_pytorch_model.fp16.safetensors").unlink()
    file.rename(folder / "unet/diffusion_pytorch_model.non_ema.safetensors")
    for load in LOADERS.values():
        with pytest.raises(UserError, match="lacks the weights of its unet: .*_model.non_ema.safetensors is there: rename it"):
            load(folder)


# what is written


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("source", ["folder", "file", "other layout"])
def test_written_text_encoder_and_tokenizer_are_as_published_whatever_the_source(tmp_path, family, source):
    """transformers 4 reads `text_model.*` and vocabulary files, and goes on with random weights where it finds others."""
    pipeline = tiny.sdxl() if family == "sdxl" else tiny.stable_diffusion(family)
    tiny.save_as_published(pipeline, tmp_path / "source")
    path = tmp_path / "source/text_encoder/model.safetensors"
    prefix = "text_model." if source == "folder" else ""
    save_file({f"{prefix}{k.removeprefix('text_model.')}": v for k, v in load_file(path).items()}, path, {"format": "pt"})
    base = make_base(family, str(tmp_path / "source"))
    if source == "file":
        save_original(pipeline, tmp_path / "one.safetensors")
        base = make_base(family, str(tmp_path / "one.safetensors"), config=str(tmp_path / "source"))
    save_pipeline(load_checkpoint(base), tmp_path / "written")
    written = load_file(tmp_path / "written/text_encoder/model.safetensors")
    assert all(key.startswith("text_model.") and not key.startswith("text_model.text_model.") for key in written)
    expected = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in pipeline.text_encoder.state_dict().items()}
    assert written.keys() == expected.keys() and all(torch.equal(written[key], expected[key]) for key in written)
    for tokenizer in {"tokenizer", *(["tokenizer_2"] if family == "sdxl" else [])}:
        for file in ("vocab.json", "merges.txt"):
            assert (tmp_path / "written" / tokenizer / file).read_text().strip() == (
                tmp_path / "source" / tokenizer / file
            ).read_text().strip()
    again = load_base(tmp_path / "written")
    for part in (part for part in NETWORKS if hasattr(again, part)):
        assert torch.equal(tiny.flat(getattr(again, part)), tiny.flat(getattr(pipeline, part)))


def test_written_words_of_bert_stand_in_the_order_of_their_numbers(tmp_path):
    save_pipeline(tiny.pipeline(), tmp_path)
    assert (tmp_path / "tokenizer/vocab.txt").read_text().split() == tiny.WORDS
