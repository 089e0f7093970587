"""Diffusion-GANs in two dimensions, where every mode can be counted: 25 Gaussians, small MLPs, many seeds at once."""
