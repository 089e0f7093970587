"""The stages of the DVC pipelines, one folder a dvc.yaml, one module a stage. Nothing imports them."""
