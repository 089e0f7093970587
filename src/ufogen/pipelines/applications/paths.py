"""Where the stages of the applications find what another one wrote."""

from __future__ import annotations

from ufogen.files import ARTIFACTS

CONTROL = ARTIFACTS / "control"  # the networks
CONTROLLED = ARTIFACTS / "control_samples"
EDITED = ARTIFACTS / "image_to_image"
