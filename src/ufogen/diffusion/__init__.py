"""The method: the forward process, the networks, the objective and its sampler."""
