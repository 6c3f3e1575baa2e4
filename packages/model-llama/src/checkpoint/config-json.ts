import type { LlamaConfig, RopeScaling } from '../checkpoint.js';
import { CheckpointError } from '../errors.js';
import { JsonObject } from './json-object.js';

/** Architectures that are a Llama, biases aside; the word that {@link LlamaConfig.architecture} gets. */
const ARCHITECTURES: Readonly<Record<string, string>> = {
  LlamaForCausalLM: 'llama',
  MistralForCausalLM: 'mistral',
  Qwen2ForCausalLM: 'qwen2',
};

/**
 * The shape of a model from Hugging Face's config.json, with the defaults of `transformers` where a key is absent.
 *
 * @param value The parsed file.
 * @throws CheckpointError for what is missing, out of range, or not supported: other architectures, partial rotary
 *   embeddings, a sliding window in use, quantised checkpoints, unknown rope scaling.
 */
export function parseConfigJson(value: unknown, file: string): LlamaConfig {
  const json = new JsonObject(value, file);
  const refuse = (message: string): never => {
    throw new CheckpointError(message, { file });
  };

  const named = json.strings('architectures') ?? [];
  const type = json.string('model_type');
  const known = named.find((name) => Object.hasOwn(ARCHITECTURES, name));
  const architecture =
    known !== undefined
      ? ARCHITECTURES[known]!
      : named.length === 0 && Object.values(ARCHITECTURES).find((word) => word === type);
  if (architecture === undefined || architecture === false) {
    const said = named.length > 0 ? named.join(', ') : (type ?? 'none');
    return refuse(`the architecture is ${said}; ${Object.keys(ARCHITECTURES).join(', ')} can run here`);
  }

  if (json.has('quantization_config')) {
    const method = json.object('quantization_config')?.string('quant_method') ?? 'unknown';
    refuse(
      `the weights are quantised (${method}), which cannot be read here; use the unquantised model or a GGUF file`,
    );
  }
  const activation = json.string('hidden_act') ?? 'silu';
  if (activation !== 'silu' && activation !== 'swish') refuse(`hidden_act is ${activation}; only silu is supported`);

  const maxPositions = json.count('max_position_embeddings') ?? 2048;
  const hiddenSize = json.required('hidden_size', json.count('hidden_size'));
  const queryHeads = json.required('num_attention_heads', json.count('num_attention_heads'));
  const kvHeads = json.count('num_key_value_heads') ?? queryHeads;
  if (queryHeads % kvHeads !== 0) refuse(`${queryHeads} query heads are not a multiple of ${kvHeads} key/value heads`);
  const headDim = json.count('head_dim') ?? hiddenSize / queryHeads;
  if (!Number.isInteger(headDim)) refuse(`hidden_size ${hiddenSize} is not a multiple of ${queryHeads} heads`);
  if (headDim % 2 !== 0) refuse(`head_dim ${headDim} is odd, so rotary embeddings cannot pair its elements`);

  // transformers 5 moved rope_theta and the scaling into rope_parameters.
  const rope = json.object('rope_parameters') ?? json.object('rope_scaling');
  const partial = rope?.number('partial_rotary_factor') ?? json.number('partial_rotary_factor') ?? 1;
  if (partial !== 1) refuse(`partial_rotary_factor is ${partial}; only models that rotate whole heads are supported`);
  const ropeTheta = json.number('rope_theta') ?? rope?.number('rope_theta') ?? 10_000;
  const rmsNormEps = json.number('rms_norm_eps') ?? 1e-6;
  if (!(ropeTheta > 0)) refuse(`rope_theta is ${ropeTheta}, not above 0`);
  if (!(rmsNormEps >= 0)) refuse(`rms_norm_eps is ${rmsNormEps}, not 0 or more`);

  return {
    architecture,
    vocabSize: json.required('vocab_size', json.count('vocab_size')),
    hiddenSize,
    intermediateSize: json.required('intermediate_size', json.count('intermediate_size')),
    layers: json.required('num_hidden_layers', json.count('num_hidden_layers')),
    queryHeads,
    kvHeads,
    headDim,
    maxPositions: fullContext(json, architecture, maxPositions, refuse),
    rmsNormEps,
    ropeTheta,
    ropeScaling: rope === undefined ? { type: 'default' } : parseRopeScaling(rope, maxPositions, refuse),
    tiedEmbeddings: json.boolean('tie_word_embeddings') ?? false,
  };
}

/**
 * The longest context in which a model that attends in a sliding window attends to everything, as is done here: the window.
 */
function fullContext(
  json: JsonObject,
  architecture: string,
  maxPositions: number,
  refuse: (message: string) => never,
): number {
  // Qwen2 has sliding_window beside a switch that is off by default; Mistral has only the number.
  const used = architecture === 'qwen2' ? (json.boolean('use_sliding_window') ?? false) : true;
  const window = json.count('sliding_window');
  const slides = (json.strings('layer_types') ?? []).some((type) => type !== 'full_attention');
  if (slides && window === undefined)
    refuse('layers attend in a sliding window, and sliding_window does not say how long');
  return (used || slides) && window !== undefined ? Math.min(window, maxPositions) : maxPositions;
}

function parseRopeScaling(rope: JsonObject, maxPositions: number, refuse: (message: string) => never): RopeScaling {
  const type = rope.string('rope_type') ?? rope.string('type') ?? 'default';
  const positive = (key: string): number => {
    const value = rope.required(key, rope.number(key));
    if (!(value > 0)) refuse(`${rope.path(key)} is ${value}, not above 0`);
    return value;
  };
  const originalMaxPositions = rope.count('original_max_position_embeddings') ?? maxPositions;
  switch (type) {
    case 'default':
      return { type };
    case 'linear':
      return { type, factor: positive('factor') };
    case 'dynamic':
      return { type, factor: positive('factor'), originalMaxPositions };
    case 'llama3': {
      const [lowFreqFactor, highFreqFactor] = [positive('low_freq_factor'), positive('high_freq_factor')];
      if (lowFreqFactor >= highFreqFactor) refuse('low_freq_factor of the rope scaling is not below high_freq_factor');
      return { type, factor: positive('factor'), lowFreqFactor, highFreqFactor, originalMaxPositions };
    }
    case 'yarn':
      return {
        type,
        factor: positive('factor'),
        originalMaxPositions,
        betaFast: rope.number('beta_fast') ?? 32, // the paper's alpha and beta for Llama (arXiv 2309.00071, section 3.2)
        betaSlow: rope.number('beta_slow') ?? 1,
        attentionFactor: rope.number('attention_factor'),
        mscale: rope.number('mscale'),
        mscaleAllDim: rope.number('mscale_all_dim'),
        truncate: rope.boolean('truncate'),
      };
    default:
      return refuse(`rope scaling of type ${type}; default, linear, dynamic, llama3 and yarn are supported`);
  }
}
