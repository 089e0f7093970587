"""The DVC commands: each reads params.yaml and files, calls the library, and writes files."""

import os

# Before any of these libraries is imported: ask no hub, and leave the terminal to our own lines.
for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(_name, _value)
