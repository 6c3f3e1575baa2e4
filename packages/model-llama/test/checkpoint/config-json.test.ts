import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseConfigJson } from '../../src/checkpoint/config-json.js';
import { CheckpointError } from '../../src/errors.js';

const LLAMA = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_act: 'silu',
  hidden_size: 2048,
  intermediate_size: 8192,
  max_position_embeddings: 131072,
  num_attention_heads: 32,
  num_hidden_layers: 16,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  tie_word_embeddings: true,
  vocab_size: 128256,
};
const parse = (changes: Record<string, unknown> = {}) => parseConfigJson({ ...LLAMA, ...changes }, '/m/config.json');

describe('config.json', () => {
  it('gives the shape of a Llama', () => {
    expect(parse()).toEqual({
      architecture: 'llama',
      vocabSize: 128256,
      hiddenSize: 2048,
      intermediateSize: 8192,
      layers: 16,
      queryHeads: 32,
      kvHeads: 8,
      headDim: 64,
      maxPositions: 131072,
      rmsNormEps: 1e-5,
      ropeTheta: 500000,
      ropeScaling: { type: 'default' },
      tiedEmbeddings: true,
    });
  });

  it("has transformers' defaults", () => {
    const { architectures, hidden_size, intermediate_size, num_attention_heads, num_hidden_layers, vocab_size } = LLAMA;
    const least = { architectures, hidden_size, intermediate_size, num_attention_heads, num_hidden_layers, vocab_size };
    expect(parseConfigJson(least, 'c')).toMatchObject({
      kvHeads: 32,
      headDim: 64,
      maxPositions: 2048,
      rmsNormEps: 1e-6,
      ropeTheta: 10_000,
      tiedEmbeddings: false,
    });
  });

  it('takes head_dim where it is given, and null for absent', () => {
    expect(parse({ head_dim: 128 }).headDim).toBe(128);
    expect(parse({ head_dim: null, sliding_window: null, quantization_config: null, rope_scaling: null }).headDim).toBe(
      64,
    );
  });

  it.each([
    ['MistralForCausalLM', 'mistral', { sliding_window: null }],
    ['Qwen2ForCausalLM', 'qwen2', { use_sliding_window: false, sliding_window: 4096, max_window_layers: 28 }],
    ['MistralForCausalLM', 'mistral', { sliding_window: 131072 }],
  ])('takes %s', (name, architecture, changes) => {
    expect(parse({ architectures: [name], model_type: architecture, ...changes }).architecture).toBe(architecture);
  });

  it.each([
    ['MistralForCausalLM', { sliding_window: 4096 }, 4096],
    ['MistralForCausalLM', { sliding_window: 4096, max_position_embeddings: 2048 }, 2048],
    ['Qwen2ForCausalLM', { use_sliding_window: true, sliding_window: 8192 }, 8192],
    ['LlamaForCausalLM', { layer_types: ['sliding_attention', 'full_attention'], sliding_window: 512 }, 512],
    ['Qwen2ForCausalLM', { use_sliding_window: false, sliding_window: 8192 }, 131072],
  ])('keeps contexts within a sliding window, where it makes no difference: %s %j', (name, changes, tokens) => {
    expect(parse({ architectures: [name], ...changes }).maxPositions).toBe(tokens);
  });

  it('takes model_type where no architecture is named', () => {
    expect(parse({ architectures: undefined }).architecture).toBe('llama');
  });

  const LLAMA3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
  const EXPECTED3 = { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 };
  it.each([
    ['old spelling', { rope_scaling: { type: 'linear', factor: 4 } }, { type: 'linear', factor: 4 }],
    ['new spelling', { rope_scaling: { rope_type: 'llama3', ...LLAMA3 } }, EXPECTED3],
    ['rope_parameters', { rope_parameters: { rope_type: 'llama3', rope_theta: 5e5, ...LLAMA3 } }, EXPECTED3],
    ['default', { rope_parameters: { rope_type: 'default', rope_theta: 1e4 } }, { type: 'default' }],
    [
      'dynamic',
      { rope_scaling: { type: 'dynamic', factor: 2 } },
      { type: 'dynamic', factor: 2, originalMaxPositions: 131072 },
    ],
    [
      'yarn',
      {
        rope_scaling: {
          rope_type: 'yarn',
          factor: 4,
          original_max_position_embeddings: 32768,
          attention_factor: 1.2,
          truncate: false,
        },
      },
      {
        type: 'yarn',
        factor: 4,
        originalMaxPositions: 32768,
        betaFast: 32,
        betaSlow: 1,
        attentionFactor: 1.2,
        truncate: false,
      },
    ],
  ])('reads rope scaling: %s', (_, changes, expected) => {
    expect(parse(changes).ropeScaling).toEqual(expected);
  });

  it('reads rope_theta in its new place', () => {
    expect(parse({ rope_theta: undefined, rope_parameters: { rope_type: 'default', rope_theta: 123 } }).ropeTheta).toBe(
      123,
    );
  });

  const SIZE = {
    vocabSize: 760,
    hiddenSize: 64,
    intermediateSize: 96,
    layers: 2,
    queryHeads: 4,
    kvHeads: 2,
    maxPositions: 512,
  };
  it.each([
    [
      'llama3',
      {
        headDim: 16,
        ropeTheta: 500_000,
        ropeScaling: { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 128 },
        tiedEmbeddings: true,
      },
    ],
    [
      'qwen2',
      { headDim: 16, ropeScaling: { type: 'yarn', factor: 4, originalMaxPositions: 128, betaFast: 32, betaSlow: 1 } },
    ],
    ['mistral', { headDim: 32, ropeTheta: 10_000, ropeScaling: { type: 'default' }, tiedEmbeddings: false }],
  ])('is read as transformers 5 writes it: %s', (name, expected) => {
    const files = JSON.parse(readFileSync(new URL('./fixtures/configs.json', import.meta.url), 'utf8'));
    expect(parseConfigJson(files[name], 'config.json')).toMatchObject({ ...SIZE, rmsNormEps: 1e-6, ...expected });
  });

  it.each<[string, Record<string, unknown>, string]>([
    ['another architecture', { architectures: ['GemmaForCausalLM'] }, 'GemmaForCausalLM; LlamaForCausalLM'],
    ['no architecture', { architectures: undefined, model_type: undefined }, 'the architecture is none'],
    ['quantised weights', { quantization_config: { quant_method: 'gptq' } }, 'quantised (gptq)'],
    ['a window of no length', { architectures: ['MistralForCausalLM'], sliding_window: -1 }, 'sliding_window is -1'],
    ['sliding layers of unknown length', { layer_types: ['full_attention', 'sliding_attention'] }, 'sliding window'],
    ['partial rotary', { partial_rotary_factor: 0.5 }, 'partial_rotary_factor is 0.5'],
    ['unknown scaling', { rope_scaling: { rope_type: 'longrope', factor: 2 } }, 'longrope'],
    ['scaling without a factor', { rope_scaling: { rope_type: 'linear' } }, 'factor is missing'],
    ['another activation', { hidden_act: 'gelu' }, 'hidden_act is gelu'],
    ['heads that do not divide', { num_key_value_heads: 5 }, 'not a multiple of 5'],
    ['a hidden size that does not divide', { hidden_size: 2050 }, 'not a multiple of 32 heads'],
    ['a missing size', { vocab_size: undefined }, 'vocab_size is missing'],
    ['a size that is none', { num_hidden_layers: -1 }, 'num_hidden_layers is -1'],
    ['a size of another type', { hidden_size: '2048' }, 'hidden_size is "2048"'],
    ['a number that is none', { rms_norm_eps: 'small' }, 'rms_norm_eps'],
  ])('refuses %s', (_, changes, message) => {
    expect(() => parse(changes)).toThrow(CheckpointError);
    expect(() => parse(changes)).toThrow(message);
    expect(() => parse(changes)).toThrow('/m/config.json');
  });

  it.each([null, 3, [], 'x'])('refuses what is no object: %j', (value) => {
    expect(() => parseConfigJson(value, 'c')).toThrow('not a JSON object');
  });
});
