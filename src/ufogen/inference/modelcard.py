"""The model card of an exported one-step model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

CARD_PROMPTS = ("a noun with a shark head", "a noun with red square glasses", "a noun with a watermelon head", "a noun")


def plain(value: Any) -> str:
    """A value of a report in one line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(map(plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and not value.isprintable():
        return ascii(value)
    return f"{value:,}" if isinstance(value, int) and value > 10**5 else str(value)


def model_card(name: str, source: Path, licence: str | None, description: dict, fp16: bool) -> str:
    """The model card, README.md of the folder."""
    licence = licence or _licence(source)
    front = {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": ["ufogen", "one-step"]}
    front = ({"license": licence} if licence else {}) | front
    rows = {
        "pictures": "{} x {} pixels".format(*description["image_size"]),
        "weights": "float16" if fp16 else description["dtype"],
        "parameters": plain(description["parameters"]),
        "predicts": description["prediction_type"],
        "timesteps": plain(description["timesteps"]),
        "prompt": f"the first {description['prompt_tokens']} tokens count",
        "SHA-256 of the U-Net it was made from": description["sha256"],
    } | _metrics(source)
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""---
{chr(10).join(f"{key}: {json.dumps(value)}" for key, value in front.items())}
---

# {" ".join(name.split())}

A text-to-image model that needs one step, trained by UFOGen ([arXiv 2311.09257](https://arxiv.org/abs/2311.09257)). An ordinary
`{description["pipeline"]}`; its scheduler makes stock diffusers sample as UFOGen does, so call it without guidance:

```python
from diffusers import {description["pipeline"]}

pipe = {description["pipeline"]}.from_pretrained({json.dumps(name)})
image = pipe({json.dumps(CARD_PROMPTS[0])}, num_inference_steps=1, guidance_scale=0).images[0]
```

![Samples](samples.png)

One step, seeds 0 to 3; a row each for: {"; ".join(CARD_PROMPTS)}.

| | |
| --- | --- |
{table}

Licence: {licence or "that of the model it was made from, which names none in its card"}.
"""


def _licence(source: Path) -> str | None:
    """The licence in the front matter of the source's card."""
    try:
        card = (source / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    found = front and re.search(r"^license: *[\"']?([^\s\"']+)", front[1], re.MULTILINE)
    return found[1] if found else None


def _metrics(source: Path) -> dict[str, Any]:
    """The numbers of the source's metrics.json, flat."""
    try:
        content = json.loads((source / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}

    def flat(value: Any, name: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return {k: v for key, item in value.items() for k, v in flat(item, f"{name} {key}".strip()).items()}
        return {name: value} if isinstance(value, (int, float)) else {}

    return flat(content, "")
