"""The stages of the DVC pipelines, one folder a dvc.yaml, one module a stage. Nothing imports them."""

import sys

from ufogen import signals

if sys.argv[:1] == ["-m"]:  # `python -m` is on its way to a stage, whose imports take seconds
    signals.leave_at_once()
