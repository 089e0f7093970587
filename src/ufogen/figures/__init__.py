"""Figures, drawn with matplotlib from the committed results and the samples."""
