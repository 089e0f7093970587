"""CLIP score: equal to a computation by hand, and no random weights in place of missing ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, CLIPModel

from tests import tiny_coco
from ufogen.errors import UserError
from ufogen.evaluation import clip_score

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_coco.clip_folder(tmp_path_factory.mktemp("clip"))


@torch.no_grad()
def test_equals_a_computation_by_hand(folder):
    images, captions = tiny_coco.pictures(3, side=tiny_coco.SIDE), ["a cat", "two dogs", "a"]
    found = clip_score.cosines(images, captions, *clip_score.load(str(folder)))
    model = CLIPModel.from_pretrained(folder).eval()
    _, processor = clip_score.load(str(folder))
    for image, caption, cosine in zip(images, captions, found, strict=True):  # unpadded, one by one
        pixels = ((torch.from_numpy(image) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None]
        a = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
        tokens = torch.tensor([processor.tokenizer(caption).input_ids])
        b = model.text_projection(model.text_model(tokens).pooler_output)[0]
        assert cosine == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-6)
    assert np.ptp(found) > 1e-3


def test_images_of_another_size_are_resized_and_long_captions_cut(folder):
    model, processor = clip_score.load(str(folder))
    found = clip_score.cosines(tiny_coco.pictures(2, side=80), ["abc " * 40, "abc " * 50], model, processor)
    assert found.shape == (2,) and (abs(found) <= 1).all()


def test_hash_is_of_the_weights_however_they_are_stored(folder, tmp_path):
    model, _ = clip_score.load(str(folder))
    model.save_pretrained(tmp_path / "parts", max_shard_size="5KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    again = CLIPModel.from_pretrained(tmp_path / "parts")
    assert clip_score.weights_sha256(model) == clip_score.weights_sha256(again)
    again.logit_scale.data += 1
    assert clip_score.weights_sha256(model) != clip_score.weights_sha256(again)


def test_missing_weights_are_named_and_not_drawn(folder, tmp_path):
    model, processor = clip_score.load(str(folder))
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights, among them visual_projection.weight"):
        clip_score.load(str(tmp_path))


def test_another_network_and_no_network_are_user_errors(tmp_path):
    BertModel(BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="which is a bert network; allowed: clip"):
        clip_score.load(str(tmp_path))
    with pytest.raises(UserError, match="absent/clip cannot be loaded: .* Set coco.clip to folders"):
        clip_score.load("absent/clip")
