"""One loop for every network that is trained here: the base's two and the diffusion-GANs."""
