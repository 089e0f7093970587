"""Training objectives, one file each. The trainer knows none of them by name."""
