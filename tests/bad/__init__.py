"""Bad input to the real entry points, generated: what kinds there are, and what becomes of each case."""
