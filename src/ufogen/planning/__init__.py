"""What a run needs before it starts: memory, FLOPs, hours."""
