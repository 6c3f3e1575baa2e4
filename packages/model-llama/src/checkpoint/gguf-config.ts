import type { LlamaConfig, RopeScaling } from '../checkpoint.js';
import { CheckpointError } from '../errors.js';
import type { GgufMetadata } from './gguf-metadata.js';
import type { StoredTensor } from './tensor-table.js';

const ARCHITECTURES = ['llama', 'qwen2'];

/**
 * The shape of a model from a GGUF file's metadata (`llama.block_count`, ...).
 *
 * @param tensors By GGUF's names: the vocabulary's size, tied embeddings and llama3's rope factors are read off them.
 * @throws CheckpointError for what is missing or not supported.
 */
export function ggufConfig(metadata: GgufMetadata, tensors: ReadonlyMap<string, StoredTensor>): LlamaConfig {
  const { file } = metadata;
  const refuse = (message: string): never => {
    throw new CheckpointError(message, { file });
  };
  const architecture = metadata.required('general.architecture', metadata.string('general.architecture'));
  if (!ARCHITECTURES.includes(architecture)) {
    refuse(`the architecture is ${architecture}; ${ARCHITECTURES.join(' and ')} can run here`);
  }
  const key = (name: string) => `${architecture}.${name}`;
  const experts = metadata.number(key('expert_count')) ?? 0;
  if (experts > 0) refuse(`the model is a mixture of ${experts} experts, which is not supported`);

  const embedding = tensors.get('token_embd.weight');
  if (embedding === undefined || embedding.shape.length !== 2) {
    throw new CheckpointError('the checkpoint has no embedding matrix', { file, tensor: 'token_embd.weight' });
  }
  const hiddenSize = metadata.size(key('embedding_length'));
  const queryHeads = metadata.size(key('attention.head_count'));
  const kvHeads = metadata.number(key('attention.head_count_kv')) ?? queryHeads;
  if (!Number.isInteger(kvHeads) || kvHeads < 1 || queryHeads % kvHeads !== 0) {
    refuse(`${queryHeads} query heads are not a multiple of ${kvHeads} key/value heads`);
  }
  const headDim = metadata.number(key('attention.key_length')) ?? hiddenSize / queryHeads;
  if (!Number.isInteger(headDim) || headDim < 2 || headDim % 2 !== 0)
    refuse(`heads of ${headDim} elements are not possible`);
  for (const other of ['attention.value_length', 'rope.dimension_count']) {
    const value = metadata.number(key(other)) ?? headDim;
    if (value !== headDim)
      refuse(`${key(other)} is ${value} with heads of ${headDim} elements, which is not supported`);
  }
  const maxPositions = metadata.size(key('context_length'));
  const window = metadata.number(key('attention.sliding_window')) ?? 0;

  return {
    architecture,
    vocabSize: embedding.shape[0]!,
    hiddenSize,
    intermediateSize: metadata.size(key('feed_forward_length')),
    layers: metadata.size(key('block_count')),
    queryHeads,
    kvHeads,
    headDim,
    // A context within the sliding window is attended to as a whole, as is done here.
    maxPositions: window > 0 ? Math.min(window, maxPositions) : maxPositions,
    rmsNormEps: metadata.required(
      key('attention.layer_norm_rms_epsilon'),
      metadata.number(key('attention.layer_norm_rms_epsilon')),
    ),
    ropeTheta: metadata.number(key('rope.freq_base')) ?? 10_000,
    ropeScaling: ropeScaling(metadata, key, headDim, maxPositions, tensors.get('rope_freqs.weight')),
    tiedEmbeddings: !tensors.has('output.weight'),
  };
}

function ropeScaling(
  metadata: GgufMetadata,
  key: (name: string) => string,
  headDim: number,
  maxPositions: number,
  factors: StoredTensor | undefined,
): RopeScaling {
  // A factor without a type is linear, as is the one number (scale_linear) of files from before rope.scaling.*.
  const type = metadata.string(key('rope.scaling.type')) ?? 'linear';
  const factor = metadata.number(key('rope.scaling.factor')) ?? metadata.number(key('rope.scale_linear')) ?? 1;
  if (!(factor > 0)) throw metadata.error(key('rope.scaling.factor'), `is ${factor}, not above 0`);
  const scales = factor !== 1 && type !== 'none';

  if (factors !== undefined) {
    const where = { file: factors.file.path, tensor: 'rope_freqs.weight', offset: factors.offset };
    if (scales) throw new CheckpointError(`rope factors together with ${type} scaling are not supported`, where);
    if (factors.dtype !== 'f32' || factors.shape.length !== 1 || factors.shape[0] !== headDim / 2) {
      throw new CheckpointError(`rope factors are not float32 [${headDim / 2}]`, where);
    }
    const data = factors.file.view(factors.offset, factors.length);
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const values = Array.from({ length: headDim / 2 }, (_, j) => view.getFloat32(4 * j, true));
    if (!values.every((value) => value > 0 && Number.isFinite(value))) {
      throw new CheckpointError('rope factors are not all above 0', where);
    }
    return { type: 'factors', factors: values };
  }
  switch (type) {
    case 'none':
      return { type: 'default' };
    case 'linear':
      return scales ? { type, factor } : { type: 'default' };
    case 'yarn': {
      // llama.cpp multiplies its own temperature by attn_factor; Hugging Face's attention_factor replaces it.
      const attention = metadata.number(key('rope.scaling.attn_factor'));
      return {
        type,
        factor,
        originalMaxPositions: metadata.number(key('rope.scaling.original_context_length')) ?? maxPositions,
        betaFast: metadata.number(key('rope.scaling.yarn_beta_fast')) ?? 32,
        betaSlow: metadata.number(key('rope.scaling.yarn_beta_slow')) ?? 1,
        attentionFactor: attention === undefined ? undefined : attention * (0.1 * Math.log(factor) + 1),
      };
    }
    default:
      throw metadata.error(key('rope.scaling.type'), `is ${type}; none, linear and yarn are supported`);
  }
}
