"""The DVC commands: each reads params.yaml and files, calls the library, and writes files."""
