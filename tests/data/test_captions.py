"""What captions say: exactly the mentioned attributes, in words that tell the parts apart."""

import re

import numpy as np
import pytest

from ufogen.base.text import MAX_LENGTH, load_text_encoder
from ufogen.data.captions import attribute_phrases, captions, mentioned_attributes
from ufogen.data.nouns import KINDS
from ufogen.data.pairs import heldout_pairs, make_pairs

SUBJECT = re.compile(r"(?:an? (?P<compound>.+) (?P<form>bodied|headed) noun|(?:a |one |the )?noun)")
DETAIL = re.compile(r"(?:(?P<article>an?) )?(?P<phrase>.+?) (?P<kind>body|accessory|head|glasses)(?: and |$)")
BACKGROUND = re.compile(r" (?:on|against) a (\w+) background$")
BARE = re.compile(r"(?P<phrase>.+) (?P<kind>background|body|accessory|head|glasses)")


def parse(caption: str) -> dict[str, str]:
    """{kind: phrase} of a caption, by a grammar written down here anew; fails on anything that does not follow it."""
    if "noun" not in re.sub("noun text", "", caption):
        return {m["kind"]: m["phrase"] for part in caption.split(", ") if (m := BARE.fullmatch(part))}
    named = {}
    if background := BACKGROUND.search(caption):
        named["background"] = background[1]
        caption = caption[: background.start()]
    subject, _, details = caption.partition(" with ")
    match = SUBJECT.fullmatch(subject)
    assert match, caption
    if match["form"]:
        named[{"bodied": "body", "headed": "head"}[match["form"]]] = match["compound"]
    position = 0
    while position < len(details):
        match = DETAIL.match(details, position)
        assert match, caption
        assert match["kind"] not in named, caption
        named[match["kind"]] = match["phrase"]
        position = match.end()
    return named


@pytest.fixture(scope="module")
def pairs(nouns):
    return make_pairs(nouns, 20_000, seed=0, purpose="captions")


@pytest.fixture(scope="module")
def phrases(nouns):
    return attribute_phrases(nouns)


def expected_attributes(pairs, phrases) -> list[dict[str, str]]:
    return [
        {kind: phrases[kind][row[i]] for i, kind in enumerate(KINDS) if named[i]}
        for row, named in zip(pairs.parts, pairs.mentioned, strict=True)
    ]


def test_phrases_tell_the_parts_of_a_kind_apart(nouns, phrases):
    for kind in KINDS:
        assert len(phrases[kind]) == len(nouns.names[kind]), kind
        assert len(set(phrases[kind])) == len(phrases[kind]), kind


def test_phrases_are_lower_case_words(phrases):
    for phrase in (phrase for kind in KINDS for phrase in phrases[kind]):
        assert re.fullmatch(r"[a-z0-9]+( [a-z0-9]+)*", phrase), phrase


def test_caption_says_exactly_what_is_mentioned(pairs, phrases):
    assert [parse(caption) for caption in pairs.captions] == expected_attributes(pairs, phrases)


def test_heldout_caption_says_exactly_what_is_mentioned(nouns, phrases):
    pairs = heldout_pairs(nouns, 5000, seed=0, purpose="captions")
    assert [parse(caption) for caption in pairs.captions] == expected_attributes(pairs, phrases)


def test_article_fits_the_next_word(pairs):
    for caption in pairs.captions:
        for article, letter in re.findall(r"\b(an?) (\w)", caption):
            assert (article == "an") == (letter in "aeiou"), caption


def test_phrasing_varies(nouns, phrases, rng):
    parts = np.repeat(nouns.sample(1, rng), 500, axis=0)
    mentioned = np.zeros((500, len(KINDS)), bool)
    mentioned[:, [1, 3]] = True
    assert len(set(captions(parts, mentioned, phrases, rng))) >= 10


def test_text_encoder_has_a_word_for_every_phrase(phrases):
    _, tokenizer = load_text_encoder()
    ids = tokenizer([phrase for kind in KINDS for phrase in phrases[kind]]).input_ids
    assert not any(tokenizer.unk_token_id in row for row in ids)


def test_captions_name_each_number_of_attributes_and_each_kind_equally_often(rng):
    mentioned = mentioned_attributes(50_000, rng)
    counts = np.bincount(mentioned.sum(axis=1), minlength=6)
    assert counts[0] == 0 and np.allclose(counts[1:] / 50_000, 0.2, atol=0.01)
    assert np.allclose(mentioned.mean(axis=0), 0.6, atol=0.01)
    assert np.allclose(mentioned[mentioned.sum(axis=1) == 1].mean(axis=0), 0.2, atol=0.02)


def test_longest_caption_of_all_attributes_fits(phrases, rng):
    _, tokenizer = load_text_encoder()
    tokens = {kind: [len(ids) for ids in tokenizer(list(phrases[kind])).input_ids] for kind in KINDS}
    longest = np.array([[int(np.argmax(tokens[kind])) for kind in KINDS]])
    sentences = captions(longest.repeat(2000, 0), np.ones((2000, len(KINDS)), bool), phrases, rng)
    assert max(map(len, tokenizer(sentences).input_ids)) == tokenizer.model_max_length == MAX_LENGTH
