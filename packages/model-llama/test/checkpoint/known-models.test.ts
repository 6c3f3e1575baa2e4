import { describe, expect, it } from 'vitest';
import { parseConfigJson } from '../../src/checkpoint/config-json.js';

/** Values of the published config.json files: hidden, MLP, layers, query heads, KV heads, vocabulary, positions. */
type Sizes = [number, number, number, number, number, number, number];

const LLAMA = 'LlamaForCausalLM';
const MISTRAL = 'MistralForCausalLM';
const QWEN2 = 'Qwen2ForCausalLM';
const llama3 = (factor: number) => ({
  rope_theta: 5e5,
  rope_scaling: {
    rope_type: 'llama3',
    factor,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  },
});

/** Name, architecture, sizes, what else its file says, bytes of bfloat16 keys and values a token, longest context. */
const MODELS: [string, string, Sizes, Record<string, unknown>, number, number][] = [
  ['Llama-2-7b', LLAMA, [4096, 11_008, 32, 32, 32, 32_000, 4096], {}, 524_288, 4096],
  ['Llama-2-70b', LLAMA, [8192, 28_672, 80, 64, 8, 32_000, 4096], {}, 327_680, 4096],
  ['Meta-Llama-3-8B', LLAMA, [4096, 14_336, 32, 32, 8, 128_256, 8192], { rope_theta: 5e5 }, 131_072, 8192],
  ['Llama-3.1-8B', LLAMA, [4096, 14_336, 32, 32, 8, 128_256, 131_072], llama3(8), 131_072, 131_072],
  [
    'Llama-3.2-3B',
    LLAMA,
    [3072, 8192, 28, 24, 8, 128_256, 131_072],
    { ...llama3(32), head_dim: 128, tie_word_embeddings: true },
    114_688,
    131_072,
  ],
  ['Llama-3.3-70B-Instruct', LLAMA, [8192, 28_672, 80, 64, 8, 128_256, 131_072], llama3(8), 327_680, 131_072],
  ['SmolLM2-360M', LLAMA, [960, 2560, 32, 15, 5, 49_152, 8192], { rope_theta: 1e5 }, 40_960, 8192],
  ['SmolLM2-1.7B', LLAMA, [2048, 8192, 24, 32, 32, 49_152, 8192], { rope_theta: 130_000 }, 196_608, 8192],
  ['TinyLlama-1.1B', LLAMA, [2048, 5632, 22, 32, 4, 32_000, 2048], {}, 22_528, 2048],
  ['CodeLlama-7b', LLAMA, [4096, 11_008, 32, 32, 32, 32_016, 16_384], { rope_theta: 1e6 }, 524_288, 16_384],
  ['Yi-6B', LLAMA, [4096, 11_008, 32, 32, 4, 64_000, 4096], { rope_theta: 5e6 }, 65_536, 4096],
  [
    'Mistral-7B-v0.1',
    MISTRAL,
    [4096, 14_336, 32, 32, 8, 32_000, 32_768],
    { rope_theta: 1e4, sliding_window: 4096 },
    131_072,
    4096, // the sliding window
  ],
  [
    'Mistral-7B-v0.3',
    MISTRAL,
    [4096, 14_336, 32, 32, 8, 32_768, 32_768],
    { rope_theta: 1e6, sliding_window: null },
    131_072,
    32_768,
  ],
  [
    'Mistral-Nemo-12B',
    MISTRAL,
    [5120, 14_336, 40, 32, 8, 131_072, 131_072],
    { rope_theta: 1e6, head_dim: 128, sliding_window: null },
    163_840,
    131_072,
  ],
  [
    'Qwen2-7B',
    QWEN2,
    [3584, 18_944, 28, 28, 4, 152_064, 131_072],
    { rope_theta: 1e6, use_sliding_window: false, sliding_window: 131_072 },
    57_344,
    131_072,
  ],
  [
    'Qwen2.5-0.5B',
    QWEN2,
    [896, 4864, 24, 14, 2, 151_936, 32_768],
    { rope_theta: 1e6, tie_word_embeddings: true, use_sliding_window: false, sliding_window: 32_768 },
    12_288,
    32_768,
  ],
];

describe('known models', () => {
  it.each(MODELS)('%s', (name, architecture, sizes, others, kvBytes, longest) => {
    const [hidden, mlp, layers, queryHeads, kvHeads, vocab, positions] = sizes;
    const config = parseConfigJson(
      {
        architectures: [architecture],
        hidden_act: 'silu',
        hidden_size: hidden,
        intermediate_size: mlp,
        num_hidden_layers: layers,
        num_attention_heads: queryHeads,
        num_key_value_heads: kvHeads,
        vocab_size: vocab,
        max_position_embeddings: positions,
        rms_norm_eps: 1e-5,
        torch_dtype: 'bfloat16',
        ...others,
      },
      `${name}/config.json`,
    );
    expect(2 * 2 * config.layers * config.kvHeads * config.headDim).toBe(kvBytes);
    expect(config.maxPositions).toBe(longest);
    expect(config.queryHeads % config.kvHeads).toBe(0);
    expect([64, 128]).toContain(config.headDim);
    expect(config.ropeScaling.type).toBe(others.rope_scaling ? 'llama3' : 'default');
    expect(config.ropeTheta).toBe(others.rope_theta ?? 10_000);
  });
});
