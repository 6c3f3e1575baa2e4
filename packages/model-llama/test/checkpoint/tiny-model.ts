import { BYTE_ALPHABET } from '../../src/checkpoint/token-bytes.js';
import { type GgufEntry, type GgufTensor, writeGguf } from './write-gguf.js';

/** A Llama so small that thousands of damaged copies can be opened in a test. */
export const TINY = { hidden: 32, ffn: 32, heads: 2, kvHeads: 1, headDim: 16, layers: 2, vocab: 260 };

const SPECIALS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'];

/** Names and shapes of its tensors, Hugging Face's way; vectors have one number. */
export function tinyShapes(): Map<string, number[]> {
  const { hidden, ffn, heads, kvHeads, headDim, layers, vocab } = TINY;
  const shapes = new Map<string, number[]>([
    ['model.embed_tokens.weight', [vocab, hidden]],
    ['model.norm.weight', [hidden]],
  ]);
  for (let layer = 0; layer < layers; layer += 1) {
    const prefix = `model.layers.${layer}.`;
    shapes.set(`${prefix}input_layernorm.weight`, [hidden]);
    shapes.set(`${prefix}self_attn.q_proj.weight`, [heads * headDim, hidden]);
    shapes.set(`${prefix}self_attn.k_proj.weight`, [kvHeads * headDim, hidden]);
    shapes.set(`${prefix}self_attn.v_proj.weight`, [kvHeads * headDim, hidden]);
    shapes.set(`${prefix}self_attn.o_proj.weight`, [hidden, heads * headDim]);
    shapes.set(`${prefix}post_attention_layernorm.weight`, [hidden]);
    shapes.set(`${prefix}mlp.gate_proj.weight`, [ffn, hidden]);
    shapes.set(`${prefix}mlp.up_proj.weight`, [ffn, hidden]);
    shapes.set(`${prefix}mlp.down_proj.weight`, [hidden, ffn]);
  }
  return shapes;
}

export function tinyMetadata(): Record<string, GgufEntry> {
  const tokens = [...BYTE_ALPHABET, ...SPECIALS, `${BYTE_ALPHABET[0x20]}a`];
  return {
    'general.architecture': { type: 'string', value: 'llama' },
    'llama.block_count': { type: 'u32', value: TINY.layers },
    'llama.context_length': { type: 'u32', value: 128 },
    'llama.embedding_length': { type: 'u32', value: TINY.hidden },
    'llama.feed_forward_length': { type: 'u32', value: TINY.ffn },
    'llama.attention.head_count': { type: 'u32', value: TINY.heads },
    'llama.attention.head_count_kv': { type: 'u32', value: TINY.kvHeads },
    'llama.rope.freq_base': { type: 'f32', value: 10_000 },
    'llama.attention.layer_norm_rms_epsilon': { type: 'f32', value: 1e-5 },
    'tokenizer.ggml.model': { type: 'string', value: 'gpt2' },
    'tokenizer.ggml.pre': { type: 'string', value: 'smollm' },
    'tokenizer.ggml.tokens': { type: 'strings', value: tokens },
    'tokenizer.ggml.token_type': { type: 'i32s', value: tokens.map((token) => (SPECIALS.includes(token) ? 3 : 1)) },
    'tokenizer.ggml.merges': { type: 'strings', value: [`${BYTE_ALPHABET[0x20]} a`] },
    'tokenizer.ggml.eos_token_id': { type: 'u32', value: 258 },
    'tokenizer.chat_template': { type: 'string', value: '{% for m in messages %}{{ m.content }}{% endfor %}' },
  };
}

const GGUF_PARTS: Record<string, string> = {
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  post_attention_layernorm: 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
};

/** Its tensors as float32 in GGUF's names; element i of a tensor is i. */
export function tinyTensors(): GgufTensor[] {
  return [...tinyShapes()].map(([name, shape]) => ({
    name: ggufName(name),
    dimensions: shape.toReversed(),
    type: 0,
    data: new Uint8Array(Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => i).buffer),
  }));
}

export function ggufName(name: string): string {
  if (name === 'model.embed_tokens.weight') return 'token_embd.weight';
  if (name === 'model.norm.weight') return 'output_norm.weight';
  const [, layer, part, kind] = /^model\.layers\.(\d+)\.(.*)\.(weight|bias)$/.exec(name)!;
  return `blk.${layer}.${GGUF_PARTS[part!]}.${kind}`;
}

export function tinyGguf(
  metadata: Record<string, GgufEntry | undefined> = {},
  tensors: GgufTensor[] = tinyTensors(),
): Buffer {
  const entries = Object.entries({ ...tinyMetadata(), ...metadata }).filter(([, entry]) => entry !== undefined);
  return writeGguf(Object.fromEntries(entries) as Record<string, GgufEntry>, tensors);
}
