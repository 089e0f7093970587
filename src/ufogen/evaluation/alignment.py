"""Alignment with the caption, read off the pixels: which parts make this image, and were they asked for?

The nearest of all 50,124,360 characters is found exactly, as the minimum of the squared error
|image - character|^2 = |image|^2 + sum over pixels of (|character|^2 - 2 image . character). The sum splits:
glasses lie on top; the head hides some of the body, which heads do in few ways ("necks"); accessories stay on
the body, and all bodies are one colour on the same pixels. So, up to |image|^2, it is
    face(mask of the glasses, head, background) + glasses(glasses) + torso(neck of the head, accessory, body)
where each term is a product of the images with a matrix of templates; of integers, so float64 is exact.

Some characters are the same picture: 17 accessories cover the whole body, 4 of them in the colour of another
body. Among equals one is taken that agrees with most of what the caption names; of several such one is drawn, so that
what is read from real images is distributed as their parts are.
"""

from __future__ import annotations

import numpy as np
import torch

from ufogen.data.nouns import COUNTS, KINDS, SIZE, Nouns
from ufogen.errors import UserError
from ufogen.randomness import torch_generator

_BATCH = 8  # images matched at once: the largest array, the torso term, takes 2 MB an image
_FAVOUR = 0.1  # five of them are less than the least difference of two errors, which is 1


def match_parts(
    images: np.ndarray, nouns: Nouns, parts: np.ndarray | None = None, mentioned: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The character nearest to each image in squared error, of all characters there are; 2.4 ms of a core an image.

    Parameters
    ----------
    images: (n, 32, 32, 3) uint8 RGB, which may be imperfect.
    parts, mentioned: (n, 5) integers and bool, what the captions ask for. Of characters equally near one is taken that
        agrees with most of it, so that `matched == parts` judges what is named (`attribute_correct`). Without them
        no part is preferred.

    Returns
    -------
    matched: (n, 5) int64 in the order of `KINDS`. Of several that are the same picture (an accessory may cover the
        body) and agree as well one is drawn, the same on each call.
    residual: (n,) float64, root mean square over pixels and channels of image - character, in grey levels
        from 0 to 255.

    Raises
    ------
    UserError: an array of another shape or type, or a part that does not exist.
    """
    _check_images(images)
    favoured = np.full((len(images), len(KINDS)), -1)
    if parts is not None and mentioned is not None:
        _check_parts(parts, len(images))
        if mentioned.dtype != bool or mentioned.shape != parts.shape:
            raise UserError(f"mentioned: expected bool {parts.shape}, got {mentioned.dtype} {mentioned.shape}")
        favoured[mentioned] = parts[mentioned]
    matched = _match(images, nouns, favoured)
    difference = images.astype(np.int32) - nouns.render(matched)
    return matched, np.sqrt((difference**2).mean((1, 2, 3)))


def attribute_correct(images: np.ndarray, parts: np.ndarray, mentioned: np.ndarray, nouns: Nouns) -> np.ndarray:
    """Whether each image shows the parts that its caption names.

    An attribute is right if the nearest character has it. Of several characters equally near, which are the
    same picture or as good a guess, one is taken that agrees with most named attributes. So a named part that
    cannot be seen counts as right, but the reading is one character: an image that shows a wrong body without
    accessory does not pass for the right body under an accessory that covers it, except where only the body
    is named.

    Parameters
    ----------
    images: (n, 32, 32, 3) uint8 RGB, one for each caption.
    parts: (n, 5) integers, the parts asked for in the order of `KINDS`.
    mentioned: (n, 5) bool, which of them the caption names.

    Returns
    -------
    correct: (n, 5) bool, False where not mentioned.

    Raises
    ------
    UserError: an array of another shape or type, or a part that does not exist.
    """
    matched, _ = match_parts(images, nouns, parts, mentioned)
    return (matched == parts) & mentioned


def attribute_accuracy(images: np.ndarray, parts: np.ndarray, mentioned: np.ndarray, nouns: Nouns) -> dict[str, float]:
    """Share of the attributes named by the captions that the images show (`attribute_correct`).

    Parameters
    ----------
    images: (n, 32, 32, 3) uint8 RGB, one for each caption.
    parts: (n, 5) integers, the parts asked for in the order of `KINDS`.
    mentioned: (n, 5) bool, which of them the caption names; the others do not count.

    Returns
    -------
    accuracy: for each kind named at least once its share in [0, 1], and `mean`, the share over all named
        attributes together (so a kind weighs by how often it is named). Chance is above 1 / parts where a
        part is often out of sight: give the value for shuffled captions beside it.

    Raises
    ------
    UserError: an array of another shape or type, a part that does not exist, or no attribute named at all.
    """
    correct = attribute_correct(images, parts, mentioned, nouns)
    if not mentioned.any():
        raise UserError("mentioned: no caption names an attribute, so there is nothing to score")
    accuracy = {
        kind: float(correct[mentioned[:, column], column].mean())
        for column, kind in enumerate(KINDS)
        if mentioned[:, column].any()
    }
    return accuracy | {"mean": float(correct[mentioned].mean())}


def _match(images: np.ndarray, nouns: Nouns, favoured: np.ndarray) -> np.ndarray:
    """Parts (n, 5) int64 of the nearest characters; of equals one drawn from those with most of `favoured` (-1: none)."""
    templates, rng = _Templates(nouns), torch_generator("cpu", 0, "equal characters")
    parts = np.empty((len(images), len(KINDS)), np.int64)
    for start in range(0, len(images), _BATCH):
        batch = slice(start, start + _BATCH)
        parts[batch] = templates.match(_flatten(images[batch]), favoured[batch], rng)
    return parts


class _Templates:
    """The three terms of the error as matrices, for images (n, 1024, 3) in grey levels from 0 to 255."""

    def __init__(self, nouns: Nouns):
        layers = {kind: torch.from_numpy(nouns.layers[kind]).flatten(1).long() for kind in KINDS}  # (k, 1024)
        opaque = {kind: layer != 0 for kind, layer in layers.items()}
        colour = {kind: _flatten(nouns.palette[nouns.layers[kind]]) for kind in KINDS}  # (k, 1024, 3)

        body = opaque["body"][0]
        self.torso = body.nonzero().squeeze(1)
        if (
            (opaque["body"] != body).any()
            or (layers["body"][:, self.torso] != layers["body"][:, self.torso[:1]]).any()
            or (opaque["accessory"] | body != body).any()
            or (opaque["glasses"] & body).any()
        ):
            raise UserError("Nouns parts: expected bodies of one shape and colour, accessories inside it")

        # face: all that is neither glasses nor torso, for each head x background x mask of the glasses
        masks, self.mask_of_glasses = torch.unique(opaque["glasses"], dim=0, return_inverse=True)
        head = opaque["head"][:, None, :, None]  # (254, 1, 1024, 1)
        face = torch.where(head, colour["head"][:, None], colour["background"])  # (254, 2, 1024, 3)
        shown = (opaque["head"] | ~body) & ~masks[:, None]  # (masks, 254, 1024)
        face = torch.where(shown[:, :, None, :, None], face, 0.0)
        self.face_shape = face.shape[:3]  # (masks, 254, 2)
        self.face = face.flatten(0, 2).flatten(1)
        self.face_norm = self.face.square().sum(1)

        glasses = torch.where(opaque["glasses"][:, :, None], colour["glasses"], 0.0)
        self.glasses = glasses.flatten(1)
        self.glasses_norm = self.glasses.square().sum(1)

        # torso: what a neck leaves of an accessory, and the bare body, of which only the colour is open
        hidden, self.neck_of_head = torch.unique(opaque["head"][:, self.torso], dim=0, return_inverse=True)
        on_top = opaque["accessory"][:, self.torso]
        accessory = torch.where(on_top[:, :, None], colour["accessory"][:, self.torso], 0.0)  # (143, 147, 3)
        accessory = torch.where(hidden[:, None, :, None], 0.0, accessory)  # (necks, 143, 147, 3)
        self.torso_shape = accessory.shape[:2]
        self.accessory = accessory.flatten(0, 1).flatten(1)
        self.accessory_norm = self.accessory.square().sum(1)
        self.bare = (~hidden[:, None] & ~on_top).flatten(0, 1).double()  # (necks * 143, 147)
        self.bare_size = self.bare.sum(1)
        self.skin = colour["body"][:, self.torso[0]]  # (30, 3)
        self.skin_norm = self.skin.square().sum(1)

    def match(self, images: torch.Tensor, favoured: np.ndarray, rng: torch.Generator) -> torch.Tensor:
        """Parts (n, 5) of the nearest characters to images (n, 1024, 3)."""
        n, flat = len(images), images.flatten(1)
        face = (self.face_norm - 2 * flat @ self.face.T).unflatten(1, self.face_shape)  # (n, masks, 254, 2)
        glasses = self.glasses_norm - 2 * flat @ self.glasses.T  # (n, 23)
        on_torso = images[:, self.torso]  # (n, 147, 3)
        sums = (on_torso.transpose(1, 2) @ self.bare.T).transpose(1, 2)  # (n, necks * 143, 3)
        accessory = self.accessory_norm - 2 * on_torso.flatten(1) @ self.accessory.T
        torso = torch.baddbmm(
            self.bare_size[:, None] * self.skin_norm + accessory[:, :, None],
            sums,
            self.skin.T.expand(n, -1, -1),
            alpha=-2,
        ).unflatten(1, self.torso_shape)  # (n, necks, 143, 30)

        for term, axis, kind in (
            (face, 3, "background"),
            (torso, 3, "body"),
            (torso, 2, "accessory"),
            (face, 2, "head"),
            (glasses, 1, "glasses"),
        ):
            part = favoured[:, KINDS.index(kind)]
            image = np.flatnonzero(part >= 0)
            term.movedim(axis, 1)[image, part[image]] -= _FAVOUR

        each = torch.arange(n)
        torso = torso.flatten(2)  # (n, necks, 143 * 30)
        face, background = face.min(3)  # (n, masks, 254)
        masks = [(self.mask_of_glasses == mask).nonzero().squeeze(1) for mask in range(self.face_shape[0])]
        chosen = torch.stack([members[glasses[:, members].argmin(1)] for members in masks], 1)  # (n, masks)
        error = face + glasses.gather(1, chosen)[:, :, None] + torso.amin(2)[:, None, self.neck_of_head]
        mask, head = torch.unravel_index(error.flatten(1).argmin(1), self.face_shape[:2])
        clothes = torso[each, self.neck_of_head[head]]  # (n, 143 * 30): the only term in which pictures repeat
        equal = clothes == clothes.amin(1, keepdim=True)
        clothes = torch.where(equal, torch.rand(equal.shape, generator=rng), -1.0).argmax(1)
        accessory, body = torch.unravel_index(clothes, (COUNTS["accessory"], COUNTS["body"]))
        return torch.stack([background[each, mask, head], body, accessory, head, chosen[each, mask]], 1)


def _flatten(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, 32, 32, 3) to float64 (n, 1024, 3)."""
    return torch.from_numpy(images).flatten(1, 2).double()


def _check_images(images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE, 3):
        raise UserError(f"images: expected uint8 (n, {SIZE}, {SIZE}, 3), got {images.dtype} {images.shape}")


def _check_parts(parts: np.ndarray, n: int) -> None:
    if not np.issubdtype(parts.dtype, np.integer) or parts.shape != (n, len(KINDS)):
        raise UserError(f"parts: expected integers ({n}, {len(KINDS)}), got {parts.dtype} {parts.shape}")
    limits = np.array([COUNTS[kind] for kind in KINDS])
    wrong = ((parts < 0) | (parts >= limits)).any(0)
    if wrong.any():
        kind = KINDS[int(wrong.argmax())]
        raise UserError(f"parts: {kind} must be from 0 to {COUNTS[kind] - 1}")
