"""The exported folder draws pictures of the size that the generator was trained on, whatever its base was made for."""

from __future__ import annotations

import pytest
from diffusers import StableDiffusionPipeline

from tests import tiny
from tests.settings import configured, make_data
from ufogen import UFOGen
from ufogen.pipelines.main import export

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")


@pytest.mark.parametrize(
    ("data", "side"),
    [
        (make_data(source="webdataset", path="shards", resolution=32), 32),
        (make_data(source="webdataset", path="shards", resolution=0), 16),
        (make_data(source="nouns"), 32),
    ],
    ids=["resolution", "the base's own", "nouns"],
)
def test_exported_folder_draws_what_was_trained(tmp_path, monkeypatch, data, side):
    monkeypatch.chdir(tmp_path)
    base = tiny.pipeline()
    assert base.unet.config.sample_size * base.vae_scale_factor == 16
    base.save_pretrained("artifacts/base")
    tiny.unet(seed=9).save_pretrained("artifacts/train/unet")
    export.main(configured(data=data))
    stock = StableDiffusionPipeline.from_pretrained("artifacts/ufogen", local_files_only=True)
    assert stock("a noun", num_inference_steps=1, guidance_scale=0).images[0].size == (side, side)
    model = UFOGen.from_pretrained("artifacts/ufogen", device="cpu")
    assert model.image_size == (side, side) == model("a noun")[0].size
