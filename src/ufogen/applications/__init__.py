"""What a one-step generator is used for beside text to image: control by edges, and image to image."""
