import { existsSync } from 'node:fs';
import type { WeightSource } from '../backend.js';
import type { Checkpoint, LlamaConfig } from '../checkpoint.js';
import { CheckpointError, ModelNotFoundError } from '../errors.js';
import { BYTE_TOKENIZER_SIZE, byteTokenizer } from './byte-tokenizer.js';
import { parseConfigJson } from './config-json.js';
import { JsonObject } from './json-object.js';
import { PRESETS } from './presets.js';
import { readJson } from './read-json.js';

const STD = 0.02; // initializer_range of every Llama
const MAX_LAYERS = 10_000; // the list of tensors is made up, so nothing else bounds it

/**
 * A model with random weights in a real model's shape: `random:llama-3.2-1b`, or `random:` and the path of a config.json.
 * Weights are normal (standard deviation 0.02), norms 1, biases as weights; the same seed gives the same model.
 *
 * @param shape What stands behind `random:`.
 * @throws ModelNotFoundError, CheckpointError
 */
export function openRandom(shape: string, seed: number): Checkpoint {
  const preset = Object.hasOwn(PRESETS, shape) ? PRESETS[shape] : undefined;
  if (preset === undefined && !existsSync(shape)) {
    throw new ModelNotFoundError(`random:${shape}`, [
      { source: `preset ${shape}`, reason: `presets are ${Object.keys(PRESETS).join(', ')}` },
      { source: `file ${shape}`, reason: 'there is no such file' },
    ]);
  }
  const json = preset === undefined ? readJson(shape) : undefined;
  const config = preset ?? parseConfigJson(json, shape);
  if (config.vocabSize < BYTE_TOKENIZER_SIZE) {
    throw new CheckpointError(
      `vocab_size ${config.vocabSize} is less than the ${BYTE_TOKENIZER_SIZE} of a random model's tokenizer`,
      {
        file: shape,
      },
    );
  }
  if (config.layers > MAX_LAYERS) {
    throw new CheckpointError(`num_hidden_layers ${config.layers} is more than ${MAX_LAYERS}`, { file: shape });
  }
  const shapes = tensorShapes(config, biases(config, json, shape));
  return {
    name: `random:${shape}`,
    config,
    tensorNames: new Set(shapes.keys()),
    tokenizer: byteTokenizer(config.vocabSize),
    tensor(name, rows, cols): WeightSource {
      const size = shapes.get(name);
      if (size === undefined)
        throw new CheckpointError('a random model has no tensor of that name', { file: shape, tensor: name });
      if (size[0] !== rows || size[1] !== cols) {
        throw new CheckpointError(`its shape is [${size.join(', ')}], not [${rows}, ${cols}]`, {
          file: shape,
          tensor: name,
        });
      }
      const isNorm = name.endsWith('norm.weight');
      return { type: 'random', rows, cols, seed: tensorSeed(seed, name), std: isNorm ? 0 : STD, mean: isNorm ? 1 : 0 };
    },
    trim() {},
    [Symbol.dispose]() {},
  };
}

/** Linear layers with a bias, by the end of their name. */
function biases(config: LlamaConfig, json: unknown, file: string): ReadonlySet<string> {
  if (config.architecture === 'qwen2') return new Set(['q_proj', 'k_proj', 'v_proj']);
  const options = json === undefined ? undefined : new JsonObject(json, file);
  return new Set([
    ...(options?.boolean('attention_bias') ? ['q_proj', 'k_proj', 'v_proj', 'o_proj'] : []),
    ...(options?.boolean('mlp_bias') ? ['gate_proj', 'up_proj', 'down_proj'] : []),
  ]);
}

function tensorShapes(config: LlamaConfig, biased: ReadonlySet<string>): Map<string, [rows: number, cols: number]> {
  const { vocabSize, hiddenSize, intermediateSize, queryHeads, kvHeads, headDim } = config;
  const shapes = new Map<string, [number, number]>([
    ['model.embed_tokens.weight', [vocabSize, hiddenSize]],
    ['model.norm.weight', [1, hiddenSize]],
  ]);
  if (!config.tiedEmbeddings) shapes.set('lm_head.weight', [vocabSize, hiddenSize]);
  for (let layer = 0; layer < config.layers; layer += 1) {
    const prefix = `model.layers.${layer}`;
    const linear = (group: string, name: string, rows: number, cols: number) => {
      shapes.set(`${prefix}.${group}.${name}.weight`, [rows, cols]);
      if (biased.has(name)) shapes.set(`${prefix}.${group}.${name}.bias`, [1, rows]);
    };
    shapes.set(`${prefix}.input_layernorm.weight`, [1, hiddenSize]);
    linear('self_attn', 'q_proj', queryHeads * headDim, hiddenSize);
    linear('self_attn', 'k_proj', kvHeads * headDim, hiddenSize);
    linear('self_attn', 'v_proj', kvHeads * headDim, hiddenSize);
    linear('self_attn', 'o_proj', hiddenSize, queryHeads * headDim);
    shapes.set(`${prefix}.post_attention_layernorm.weight`, [1, hiddenSize]);
    linear('mlp', 'gate_proj', intermediateSize, hiddenSize);
    linear('mlp', 'up_proj', intermediateSize, hiddenSize);
    linear('mlp', 'down_proj', hiddenSize, intermediateSize);
  }
  return shapes;
}

/** A tensor's own seed, 32 bits: FNV-1a over the model's seed and the name. */
function tensorSeed(seed: number, name: string): number {
  let hash = 0x811c9dc5;
  for (const character of `${seed}/${name}`) hash = Math.imul(hash ^ character.charCodeAt(0), 0x01000193);
  return hash >>> 0;
}
