import { readFileSync } from 'node:fs';
import type { Checkpoint, LlamaConfig, RopeScaling, Tokenizer } from '../src/checkpoint.js';
import { hashedIntegers, hashedValues } from './hashed-values.js';

export interface RandomModel {
  name: string;
  config: LlamaConfig;
  /** Shapes by name; the values follow from name and shape. */
  tensors: Record<string, number[]>;
  prompt: Int32Array;
  /** Hugging Face's values. */
  inverseFrequencies: Float32Array;
  ropeScale: number;
  logits: Float32Array[];
  greedy: number[];
}

interface Fixture {
  promptTokens: number;
  models: {
    name: string;
    config: Omit<LlamaConfig, 'ropeScaling'>;
    rope: Record<string, number | string | boolean>;
    tensors: Record<string, number[]>;
    inverseFrequencies: string;
    ropeScale: number;
    logits: string;
    greedy: number[];
  }[];
}

/** The small random models of test/fixtures/random-models.json with Hugging Face's results for them. */
export function randomModels(): RandomModel[] {
  const file = new URL('./fixtures/random-models.json', import.meta.url);
  const { models, promptTokens } = JSON.parse(readFileSync(file, 'utf8')) as Fixture;
  return models.map(({ rope, logits, inverseFrequencies, ...model }) => {
    const { vocabSize, maxPositions } = model.config;
    const flat = decode(logits);
    return {
      ...model,
      config: { ...model.config, ropeScaling: ropeScaling(rope, maxPositions) },
      prompt: hashedIntegers(`${model.name}/prompt`, promptTokens, vocabSize),
      inverseFrequencies: decode(inverseFrequencies),
      logits: Array.from({ length: promptTokens }, (_, i) => flat.subarray(i * vocabSize, (i + 1) * vocabSize)),
    };
  });
}

export function randomModel(name: string): RandomModel {
  return randomModels().find((model) => model.name === name)!;
}

function decode(base64: string): Float32Array {
  const bytes = Buffer.from(base64, 'base64');
  return new Float32Array(new Uint8Array(bytes).buffer);
}

function ropeScaling(rope: Record<string, number | string | boolean>, maxPositions: number): RopeScaling {
  const number = (name: string) => rope[name] as number;
  switch (rope.rope_type) {
    case 'linear':
      return { type: 'linear', factor: number('factor') };
    case 'dynamic':
      return { type: 'dynamic', factor: number('factor'), originalMaxPositions: maxPositions };
    case 'llama3':
      return {
        type: 'llama3',
        factor: number('factor'),
        lowFreqFactor: number('low_freq_factor'),
        highFreqFactor: number('high_freq_factor'),
        originalMaxPositions: number('original_max_position_embeddings'),
      };
    case 'yarn':
      return {
        type: 'yarn',
        factor: number('factor'),
        originalMaxPositions: number('original_max_position_embeddings'),
        betaFast: number('beta_fast'),
        betaSlow: number('beta_slow'),
        ...('mscale' in rope && { mscale: number('mscale'), mscaleAllDim: number('mscale_all_dim') }),
        ...('truncate' in rope && { truncate: rope.truncate as boolean }),
      };
    default:
      return { type: 'default' };
  }
}

/** A checkpoint in memory. Its tokenizer is one character a token: token t is the character of code 0x100 + t. */
export function randomCheckpoint(model: Pick<RandomModel, 'name' | 'config' | 'tensors'>): Checkpoint {
  const { name, config, tensors } = model;
  return {
    name,
    config,
    tensorNames: new Set(Object.keys(tensors)),
    tensor(tensor, rows, cols) {
      const shape = tensors[tensor];
      if (!shape || rows * cols !== shape.reduce((a, b) => a * b, 1))
        throw new Error(`no ${tensor} [${rows}, ${cols}]`);
      const norm = tensor.includes('norm');
      let amplitude = 0.9 / Math.sqrt(shape.at(-1)!);
      if (norm) amplitude = 0.2;
      else if (tensor.endsWith('bias')) amplitude = 0.1;
      else if (tensor.includes('embed_tokens')) amplitude = 0.5;
      const values = hashedValues(`${name}/${tensor}`, rows * cols, amplitude, norm ? 1 : 0);
      return { type: 'f32', data: new Uint8Array(values.buffer), rows, cols };
    },
    tokenizer: characterTokenizer(config.vocabSize),
    trim() {},
    [Symbol.dispose]() {},
  };
}

/** Tokens are single characters; token 1 ends a generation. */
export function characterTokenizer(vocabSize: number): Tokenizer {
  const text = (token: number) => String.fromCharCode(0x100 + token);
  return {
    bosToken: undefined,
    eosTokens: new Set([1]),
    vocabSize,
    hasChatTemplate: false,
    encode: (source) => Int32Array.from(source, (character) => character.charCodeAt(0) - 0x100),
    decode: (tokens) => Array.from(tokens, text).join(''),
    stream: () => ({ push: text, flush: () => '' }),
    applyChatTemplate() {
      throw new Error('no chat template');
    },
  };
}

/** Shapes of the tensors of a model of this shape, without biases. */
export function tensorShapes(config: LlamaConfig): Record<string, number[]> {
  const { hiddenSize: h, intermediateSize: f, queryHeads, kvHeads, headDim, vocabSize, layers } = config;
  const shapes: Record<string, number[]> = { 'model.embed_tokens.weight': [vocabSize, h], 'model.norm.weight': [h] };
  if (!config.tiedEmbeddings) shapes['lm_head.weight'] = [vocabSize, h];
  for (let layer = 0; layer < layers; layer += 1) {
    const prefix = `model.layers.${layer}`;
    Object.assign(shapes, {
      [`${prefix}.input_layernorm.weight`]: [h],
      [`${prefix}.self_attn.q_proj.weight`]: [queryHeads * headDim, h],
      [`${prefix}.self_attn.k_proj.weight`]: [kvHeads * headDim, h],
      [`${prefix}.self_attn.v_proj.weight`]: [kvHeads * headDim, h],
      [`${prefix}.self_attn.o_proj.weight`]: [h, queryHeads * headDim],
      [`${prefix}.post_attention_layernorm.weight`]: [h],
      [`${prefix}.mlp.gate_proj.weight`]: [f, h],
      [`${prefix}.mlp.up_proj.weight`]: [f, h],
      [`${prefix}.mlp.down_proj.weight`]: [h, f],
    });
  }
  return shapes;
}
