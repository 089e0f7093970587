"""25 Gaussians in two dimensions, where every mode can be counted."""
