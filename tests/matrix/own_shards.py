"""Whether this environment's diffusers opens a UNet in shards that it saved itself.

python own_shards.py UNET_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from diffusers import UNet2DConditionModel

with TemporaryDirectory() as folder:
    unet = UNet2DConditionModel.from_pretrained(sys.argv[1])
    unet.save_pretrained(folder, max_shard_size="400kB")
    assert any(Path(folder).glob("*.index.json")), "saved as one file"
    UNet2DConditionModel.from_pretrained(folder)
