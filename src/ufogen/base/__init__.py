"""The small latent diffusion model that stands where the paper has Stable Diffusion 1.5."""
