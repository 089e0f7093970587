"""A replication of UFOGen: one-step text-to-image generation with a diffusion-GAN (arXiv 2311.09257)."""
