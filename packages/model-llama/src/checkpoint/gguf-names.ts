const TOP: Readonly<Record<string, string>> = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
};

const LAYER: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

/** Hugging Face's name of a GGUF tensor (`blk.0.attn_q.weight`), or nothing for tensors that the model does not use. */
export function huggingFaceName(name: string): string | undefined {
  if (Object.hasOwn(TOP, name)) return TOP[name];
  const match = /^blk\.(\d{1,5})\.(\w+)\.(weight|bias)$/.exec(name);
  if (match === null || !Object.hasOwn(LAYER, match[2]!)) return undefined;
  return `model.layers.${Number(match[1])}.${LAYER[match[2]!]}.${match[3]}`;
}
