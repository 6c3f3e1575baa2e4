"""Makes test/checkpoint/fixtures/smollm2-gguf.json: what the gguf package and transformers read in the real file.

    pip install torch==2.13.0 transformers==5.23.0 accelerate gguf==0.19.0
    python make_gguf_fixture.py SmolLM2-135M-Instruct.Q4_1.gguf ../test/checkpoint/fixtures/smollm2-gguf.json
"""

import hashlib
import json
import os
import sys

import gguf
import torch
from transformers import AutoModelForCausalLM

path = sys.argv[1]
tensors = {
    t.name: {
        "shape": [int(n) for n in reversed(t.shape)],
        "type": t.tensor_type.name.lower(),
        "offset": int(t.data_offset),
        "sha256": hashlib.sha256(t.data.tobytes()).hexdigest(),
    }
    for t in gguf.GGUFReader(path).tensors
}
model = AutoModelForCausalLM.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path), dtype=torch.float32)
state = model.state_dict()
# The first eight values of some rows, in Hugging Face's order of rows.
rows = {
    name: {row: state[name][row, :8].tolist() for row in (0, 1, 31, 32, 63, 64, 97, 191)}
    for name in (f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 29) for part in "qkv")
}
with open(sys.argv[2], "w") as file:
    json.dump({"tensors": tensors, "rows": rows}, file, separators=(",", ":"))
    file.write("\n")
