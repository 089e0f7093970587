"""English captions that mention a random subset of a character's attributes.

A caption leaves most of an image open, so the conditional distribution has very many modes: regression
would answer with their mean, which is what the adversarial term is there to prevent.
"""

from __future__ import annotations

import re

import numpy as np

from ufogen.data.nouns import KINDS, Nouns

_HEADS = {
    "baseball-gameball": "baseball", "bigfoot-yeti": "yeti", "bubble-speech": "speech bubble",
    "burger-dollarmenu": "burger", "chart-bars": "bar chart", "chefhat": "chef hat", "boxingglove": "boxing glove",
    "cannedham": "canned ham", "cassettetape": "cassette tape", "coffeebean": "coffee bean", "chilli": "chili",
    "console-handheld": "handheld console", "cordlessphone": "cordless phone", "cottonball": "cotton ball",
    "croc-hat": "crocodile hat", "crt-bsod": "computer screen", "crystalball": "crystal ball",
    "diamond-blue": "blue diamond", "diamond-red": "red diamond", "ducky": "rubber duck", "faberge": "faberge egg",
    "factory-dark": "factory", "film-35mm": "film roll", "firehydrant": "fire hydrant", "fir": "fir tree",
    "bonsai": "bonsai tree", "ghost-B": "ghost", "glasses-big": "big glasses", "goldcoin": "gold coin",
    "hardhat": "hard hat", "highheel": "high heel", "hockeypuck": "hockey puck", "horse-deepfried": "horse",
    "hotdog": "hot dog", "icepop-b": "ice pop", "lipstick2": "lipstick", "mountain-snowcap": "snowy mountain",
    "pencil-tip": "pencil", "piggybank": "piggy bank", "pop": "soda can", "porkbao": "pork bun",
    "queencrown": "queen crown", "rgb": "colour circles", "ruler-triangular": "triangular ruler",
    "skeleton-hat": "skeleton", "skilift": "ski lift", "snowglobe": "snow globe", "star-sparkles": "sparkling star",
    "taco-classic": "taco", "thumbsup": "thumbs up", "toiletpaper-full": "toilet paper",
    "toothbrush-fresh": "toothbrush", "trashcan": "trash can", "ufo": "flying saucer", "wallsafe": "wall safe",
    "washingmachine": "washing machine", "weed": "leaf", "whale-alive": "living whale", "wizardhat": "wizard hat",
    "treasurechest": "treasure chest", "abstract": "abstract shape", "gnome": "garden gnome",
}  # fmt: skip
_BODIES = {
    "bege-bsod": "pale beige", "bege-crt": "beige", "blue-sky": "sky blue", "bluegrey": "blue grey", "cold": "icy",
    "computerblue": "computer blue", "darkbrown": "dark brown", "darkpink": "dark pink", "foggrey": "fog grey",
    "grayscale-1": "black", "grayscale-7": "grey", "grayscale-8": "light grey", "grayscale-9": "white",
    "hotbrown": "hot brown", "orange-yellow": "orange yellow", "peachy-B": "deep peach", "peachy-a": "peach",
    "redpinkish": "pinkish red", "slimegreen": "slime green", "teal-light": "light teal", "gunk": "gunk green",
}  # fmt: skip
_GLASSES = {
    "hip-rose": "hip rose", "square-black-eyes-red": "red eyed black", "square-black-rgb": "black rgb",
    "square-blue-med-saturated": "bright blue", "square-frog-green": "frog green", "square-fullblack": "full black",
    "square-green-blue-multi": "green and blue", "square-grey-light": "light grey",
    "square-pink-purple-multi": "pink and purple", "square-yellow-orange-multi": "yellow and orange",
    "square-yellow-saturated": "bright yellow",
}  # fmt: skip
_ACCESSORIES = {
    "1n": "one n", "bling-gold-ingot": "gold ingot chain", "body-gradient-checkerdisco": "disco gradient",
    "checker-bigwalk-blue-prime": "big blue checker", "checker-bigwalk-greylight": "big grey checker",
    "checker-bigwalk-rainbow": "big rainbow checker", "checkers-big-green": "large green checker",
    "checkers-big-red-cold": "large red checker", "checker-spaced-black": "spaced black checker",
    "checker-spaced-white": "spaced white checker", "checkers-magenta-80": "magenta checker",
    "checkers-black": "black checker", "checkers-blue": "blue checker", "checker-RGB": "rgb checker",
    "checker-vibrant": "vibrant checker", "collar-sunset": "sunset collar", "decay-gray-dark": "dark decay",
    "decay-pride": "pride decay", "dollar-bling": "dollar chain", "ducky": "rubber duck", "eth": "ethereum",
    "glasses-logo-sun": "sunglasses logo", "grid-simple-bege": "beige grid", "none": "plain",
    "hoodiestrings-uneven": "hoodie string", "lines-45-greens": "green diagonal line",
    "lines-45-rose": "rose diagonal line", "lp": "record", "marsface": "mars face", "matrix-white": "white matrix",
    "oldshirt": "old shirt", "pizza-bling": "pizza chain", "slimesplat": "slime splat", "small-bling": "small chain",
    "stains-blood": "blood stain", "stains-zombie": "zombie stain", "stripes-and-checks": "striped and checked",
    "stripes-big-red": "big red stripe", "stripes-blit": "blit stripe", "stripes-blue-med": "blue stripe",
    "stripes-brown": "brown stripe", "stripes-olive": "olive stripe", "stripes-red-cold": "cold red stripe",
    "taxi-checkers": "taxi checker", "tee-yo": "yo shirt", "text-yolo": "yolo text",
    "tie-black-on-white": "black tie", "tie-purple-on-white": "purple tie", "tie-red": "red tie",
    "txt-noun-f0f": "pink noun text", "txt-noun-green": "green noun text", "txt-cc2": "second cc text",
    "txt-noun-multicolor": "colourful noun text", "txt-dao-black": "dao text", "txt-foo-black": "foo text",
    "txt-nil-grey-dark": "nil text", "txt-dope-text": "dope text", "wet-money": "wet money",
    "woolweave-bicolor": "two colour wool weave", "woolweave-dirt": "dirt wool weave", "yingyang": "yin yang",
    "body-bege": "beige cover", "body-gray-scale-1": "black cover", "body-gray-scale-9": "white cover",
    "body-ice-cold": "ice cover", "txt-a2+b2": "a2 b2 text",
}  # fmt: skip
_SUBJECTS = ("a noun", "one noun", "the noun", "noun")
_BACKGROUNDS = ("cool", "warm")  # d5d7e1 is bluish grey, e1d7d5 reddish grey


def attribute_phrases(nouns: Nouns) -> dict[str, tuple[str, ...]]:
    """The words for each part of each kind: lower-case, distinct within a kind."""
    phrases = {"background": _BACKGROUNDS}
    for kind, table in (("body", _BODIES), ("accessory", _ACCESSORIES), ("head", _HEADS), ("glasses", _GLASSES)):
        phrases[kind] = tuple(_phrase(name, kind, table) for name in nouns.names[kind])
    return phrases


def mentioned_attributes(n: int, rng: np.random.Generator) -> np.ndarray:
    """Which kinds each of `n` captions names: (n, 5) bool.

    Between one and five, each number equally often and every choice of kinds too, so that a caption leaves nearly all
    open or nothing.
    """
    rank = rng.random((n, len(KINDS))).argsort(axis=1)
    return rank < rng.integers(1, len(KINDS) + 1, (n, 1))


def captions(
    parts: np.ndarray, mentioned: np.ndarray, phrases: dict[str, tuple[str, ...]], rng: np.random.Generator
) -> list[str]:
    """A sentence for each row of `parts` (n, 5) that names exactly the attributes in `mentioned` (n, 5)."""
    choices = rng.integers(0, 1 << 16, (len(parts), 3))
    return [
        _caption({kind: phrases[kind][row[i]] for i, kind in enumerate(KINDS) if named[i]}, *choice)
        for row, named, choice in zip(parts.tolist(), mentioned.tolist(), choices.tolist(), strict=True)
    ]


def _caption(named: dict[str, str], style: int, order: int, form: int) -> str:
    subject = _SUBJECTS[style % len(_SUBJECTS)]
    if style % 7 == 0:  # the bare list that people type
        return ", ".join(_bare(kind, phrase) for kind, phrase in _rotate(list(named.items()), order))
    details = []
    for kind, phrase in named.items():
        if kind == "body" and form % 3 == 0 and subject == "a noun":
            subject = f"{_article(phrase)} {phrase} bodied noun"
        elif kind == "head" and form % 3 == 1 and subject == "a noun":
            subject = f"{_article(phrase)} {phrase} headed noun"
        elif kind != "background":
            details.append(_detail(kind, phrase))
    text = subject
    if details:
        text += " with " + " and ".join(_rotate(details, order))
    if "background" in named:
        text += f" {('on', 'against')[order % 2]} a {named['background']} background"
    return text


def _detail(kind: str, phrase: str) -> str:
    return f"{phrase} glasses" if kind == "glasses" else f"{_article(phrase)} {_bare(kind, phrase)}"


def _bare(kind: str, phrase: str) -> str:
    return f"{phrase} {kind}"


def _rotate(items: list, by: int) -> list:
    by %= max(len(items), 1)
    return items[by:] + items[:by]


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"


def _phrase(name: str, kind: str, table: dict[str, str]) -> str:
    if kind == "accessory":
        key = name.removeprefix("accessory-")
        if key in table:
            return table[key]
        if key.startswith("txt-"):
            return key.removeprefix("txt-") + " text"
        if key.startswith("bling-"):
            return key.removeprefix("bling-") + " chain"
        key = key.removeprefix("body-gradient-") + " gradient" if key.startswith("body-gradient-") else key
    else:
        key = name.removeprefix(f"{kind}-")
        if kind == "glasses":
            words = table.get(key, key.removeprefix("square-").replace("-", " "))
            return f"{words} square" if key.startswith("square-") else words
        if key in table:
            return table[key]
    return re.sub(r"[-_]+", " ", key).lower()
