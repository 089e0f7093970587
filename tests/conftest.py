"""Settings of every test run; the environment is set before torch or a hub library is imported."""

import os

os.environ.update(
    OMP_NUM_THREADS="1",  # spinning OpenMP threads are many times slower when another process is busy
    HF_HUB_OFFLINE="1",  # a wrong path fails at once instead of asking a hub
    TOKENIZERS_PARALLELISM="false",
    DVC_NO_ANALYTICS="1",
    MPLBACKEND="Agg",
)

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("ufogen", deadline=None, derandomize=True)
settings.load_profile("ufogen")
