"""Data sources. Each module turns an installed package or a folder into images and captions."""
