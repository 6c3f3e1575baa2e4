"""Makes test/checkpoint/fixtures/configs.json: config.json files as transformers 5 writes them.

    pip install transformers==5.23.0
    python make_config_fixtures.py ../test/checkpoint/fixtures/configs.json
"""

import json
import sys

from transformers import LlamaConfig, MistralConfig, Qwen2Config

SIZE = dict(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=760, max_position_embeddings=512,
)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128)
configs = {
    "llama3": LlamaConfig(**SIZE, architectures=["LlamaForCausalLM"], rope_scaling=LLAMA3, rope_theta=5e5, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZE, architectures=["Qwen2ForCausalLM"], rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=128)),
    "mistral": MistralConfig(**SIZE, architectures=["MistralForCausalLM"], head_dim=32, sliding_window=None),
}
with open(sys.argv[1], "w") as file:
    json.dump({name: json.loads(config.to_json_string(use_diff=False)) for name, config in configs.items()}, file, indent=1)
    file.write("\n")
