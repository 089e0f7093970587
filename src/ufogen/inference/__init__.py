"""A trained generator in use: the Python interface, and folders that stock diffusers reads."""
