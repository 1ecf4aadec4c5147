"""Uploads a model to the Hugging Face Hub, with a card that says how to use it."""

import os
from pathlib import Path

from hkdnet_jax.exported import formats
from hkdnet_jax.model_files import hub

_CARD = """---
library_name: hkdnet_jax
tags: [image-fusion, super-resolution, infrared, jax]
---

A model that fuses a registered pair of an infrared and a visible image, for
hkdnet_jax.

```python
import hkdnet_jax

model = hkdnet_jax.load("{address}")
picture = hkdnet_jax.fuse_pair(model, ir, vis)
```
"""


def push(model: str | os.PathLike[str], address: str) -> None:
    """Uploads a model, which `load(address)` then fetches.

    Args:
      model: a model directory or exported weights.
      address: `hf://OWNER/NAME`, with `@` and a branch if not `main`.  A repository
        that does not exist is made, a public one; a README.md that exists is kept.

    Raises:
      UserError: there is no such model, the address is malformed, the server cannot be
        reached or refuses, or huggingface_hub is not installed.
    """
    weights = formats.convert(Path(model), "safetensors")
    hub.push(address, weights, _CARD.format(address=address))
