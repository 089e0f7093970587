"""How good the images are: fidelity to the data, alignment with the caption, and the time they take."""
