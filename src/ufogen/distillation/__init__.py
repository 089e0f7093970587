"""What UFOGen is compared with: the mathematics of each method, one file each; training/distiller.py trains them."""
