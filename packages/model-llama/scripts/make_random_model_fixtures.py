"""Logits of Hugging Face's implementation for small random models: test/fixtures/random-models.json.

    pip install torch==2.13.0 transformers numpy
    python scripts/make_random_model_fixtures.py
"""

import base64
import json
import pathlib

import numpy as np
import torch
from hash_values import integers, values
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

OUT = pathlib.Path(__file__).parent.parent / "test" / "fixtures" / "random-models.json"
PROMPT_TOKENS = 24
GREEDY_TOKENS = 8
VOCAB = 96

# name: (query heads, KV heads, head_dim, tied, overrides)
MODELS = {
    "multi-head": (2, 2, 64, False, {}),
    "group-of-3-tied": (6, 2, 64, True, {}),
    "group-of-4-wide-heads": (4, 1, 128, False, {}),
    "group-of-8": (8, 1, 64, True, {}),
    "head-of-80": (3, 1, 80, False, {}),
    "head-of-8": (4, 2, 8, False, {}),
    "attention-bias": (4, 2, 64, False, {"attention_bias": True}),
    "qwen2": (4, 2, 64, True, {"architecture": "qwen2"}),
    "qwen2.5": (4, 1, 128, False, {"architecture": "qwen2", "theta": 1e6, "eps": 1e-6}),
    "mistral": (4, 1, 32, False, {"architecture": "mistral", "theta": 1e6, "window": None}),
    "mistral-window": (4, 1, 32, False, {"architecture": "mistral", "window": 64}),
    "llama-2-70b": (8, 1, 128, False, {"eps": 1e-6}),
    "codellama": (2, 2, 128, False, {"theta": 1e6}),
    "yi": (4, 1, 128, False, {"theta": 5e6}),
    "llama-3.2": (
        4, 1, 64, True,
        {"rope": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 8192}, "theta": 500000.0, "positions": 131072},
    ),
    "rope-linear": (2, 1, 64, False, {"rope": {"rope_type": "linear", "factor": 4.0}}),
    "rope-dynamic": (2, 1, 64, False, {"rope": {"rope_type": "dynamic", "factor": 2.0}, "positions": 16}),
    "rope-dynamic-unscaled": (2, 1, 64, False, {"rope": {"rope_type": "dynamic", "factor": 2.0}}),
    "rope-llama3": (
        2, 1, 64, False,
        {"rope": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 512}, "theta": 500000.0},
    ),
    "rope-yarn": (
        2, 1, 64, False,
        {"rope": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
                  "original_max_position_embeddings": 512}},
    ),
    "rope-yarn-mscale": (
        2, 1, 80, False,
        {"rope": {"rope_type": "yarn", "factor": 16.0, "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.8,
                  "mscale_all_dim": 0.4, "original_max_position_embeddings": 256, "truncate": False}},
    ),
}


def encode(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode()


def make(name: str) -> dict:
    heads, kv_heads, head_dim, tied, extra = MODELS[name]
    hidden = 48 + 8 * len(name) % 40 // 8 * 8
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden + 8,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": extra.get("positions", 2048),
        "rms_norm_eps": extra.get("eps", 1e-5),
        "tie_word_embeddings": tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": extra.get("theta", 10000.0), **extra.get("rope", {})},
        "attn_implementation": "eager",
    }
    if extra.get("architecture") == "qwen2":
        config, build = Qwen2Config(**shape), Qwen2ForCausalLM
    elif extra.get("architecture") == "mistral":
        config, build = MistralConfig(**shape, sliding_window=extra["window"]), MistralForCausalLM
    else:
        config, build = LlamaConfig(**shape, attention_bias=extra.get("attention_bias", False)), LlamaForCausalLM
    with torch.no_grad():
        model = build(config).to(torch.float32).eval()
        for tensor_name, tensor in model.state_dict().items():
            if tied and tensor_name == "lm_head.weight":
                continue
            norm = "norm" in tensor_name
            amplitude = 0.2 if norm else 0.1 if tensor_name.endswith("bias") else 0.9 / tensor.shape[-1] ** 0.5
            amplitude = 0.5 if "embed_tokens" in tensor_name else amplitude
            made = values(f"{name}/{tensor_name}", tensor.numel(), amplitude, 1.0 if norm else 0.0)
            tensor.copy_(torch.from_numpy(made).reshape(tensor.shape))
        prompt = integers(f"{name}/prompt", PROMPT_TOKENS, VOCAB)
        logits = model(torch.from_numpy(prompt)[None]).logits[0].numpy()
        rotary = model.model.rotary_emb
        frequencies, scale = rotary.inv_freq.numpy().copy(), float(rotary.attention_scaling)
        ids = torch.from_numpy(prompt)[None]
        # Without a mask, prompt tokens that happen to be the padding token would be masked.
        tokens = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=GREEDY_TOKENS, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )[0, PROMPT_TOKENS:]
    return {
        "name": name,
        "config": {
            "architecture": extra.get("architecture", "llama"),
            "vocabSize": VOCAB,
            "hiddenSize": hidden,
            "intermediateSize": shape["intermediate_size"],
            "layers": 2,
            "queryHeads": heads,
            "kvHeads": kv_heads,
            "headDim": head_dim,
            "maxPositions": shape["max_position_embeddings"],
            "rmsNormEps": extra.get("eps", 1e-5),
            "ropeTheta": shape["rope_parameters"]["rope_theta"],
            "tiedEmbeddings": tied,
        },
        "rope": extra.get("rope", {"rope_type": "default"}),
        "tensors": {
            n: list(t.shape) for n, t in model.state_dict().items() if not (tied and n == "lm_head.weight")
        },
        "inverseFrequencies": encode(frequencies),
        "ropeScale": scale,
        "logits": encode(logits),
        "greedy": tokens.tolist(),
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    fixtures = {"promptTokens": PROMPT_TOKENS, "models": [make(name) for name in MODELS]}
    OUT.write_text(json.dumps(fixtures, indent=1) + "\n")
    print(OUT, OUT.stat().st_size, "bytes")
