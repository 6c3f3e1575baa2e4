import { setImmediate } from 'node:timers/promises';
import type { LoadProgress } from './api.js';
import type { Backend, Tensor, Weight, WeightFormat } from './backend.js';
import type { Checkpoint } from './checkpoint.js';
import { CheckpointError } from './errors.js';

/** Hq query heads and Hkv KV heads of d elements, MLP width F. Weights are output-major. */
export interface LlamaLayer {
  /** [hidden] */
  attentionNorm: Tensor;
  /** [(Hq + 2 Hkv) d, hidden], rows q | k | v */
  qkv: Weight;
  /** [(Hq + 2 Hkv) d] */
  qkvBias: Tensor | undefined;
  /** [hidden, Hq d] */
  o: Weight;
  /** [hidden] */
  oBias: Tensor | undefined;
  /** [hidden] */
  mlpNorm: Tensor;
  /** [2 F, hidden], gated */
  gateUp: Weight;
  /** [hidden, F] */
  down: Weight;
  /** [hidden] */
  downBias: Tensor | undefined;
}

export interface LlamaWeights extends Disposable {
  /** [vocab, hidden] */
  embedding: Weight;
  layers: LlamaLayer[];
  /** [hidden] */
  norm: Tensor;
  /** [vocab, hidden]; the embedding itself when the model ties them. */
  output: Weight;
  /** Bytes of all of it. */
  bytes: number;
}

/** What of a backend weights are brought into. */
export type WeightBackend = Pick<Backend, 'tensor' | 'vector' | 'weight' | 'toHost' | 'toDevice'>;

export interface LoadWeightsOptions {
  format: WeightFormat;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: LoadProgress) => void) | undefined;
}

/**
 * The format that changes a checkpoint's weights least at the least bytes: `q8`, in which blocks stay what they are, when its
 * matrices are quantised, and otherwise `bf16`.
 *
 * @throws CheckpointError when a matrix is missing or has another shape
 */
export function ownFormat(checkpoint: Checkpoint): WeightFormat {
  const { hiddenSize, intermediateSize, queryHeads, headDim } = checkpoint.config;
  // One matrix of each width: blocks lie along rows, and a width that is no multiple of theirs stays unquantised.
  const matrices = [
    ['mlp.down_proj', hiddenSize, intermediateSize],
    ['self_attn.o_proj', hiddenSize, queryHeads * headDim],
    ['mlp.gate_proj', intermediateSize, hiddenSize],
  ] as const;
  const quantised = matrices.every(([name, rows, cols]) =>
    /^q\d/.test(checkpoint.tensor(`model.layers.0.${name}.weight`, rows, cols).type),
  );
  return quantised ? 'q8' : 'bf16';
}

/**
 * Brings a checkpoint's weights into the backend. Lets the event loop run between tensors.
 *
 * @throws CheckpointError when a tensor is missing or has another shape, and for biases of the gated MLP, which have no
 *   operator. The signal's reason when it aborts. Nothing stays allocated then.
 */
export async function loadLlamaWeights(
  checkpoint: Checkpoint,
  backend: WeightBackend,
  options: LoadWeightsOptions,
): Promise<LlamaWeights> {
  const { hiddenSize, intermediateSize, layers, queryHeads, kvHeads, headDim, vocabSize, tiedEmbeddings } =
    checkpoint.config;
  const { format, signal, onProgress } = options;
  const total = layers * 6 + (tiedEmbeddings ? 2 : 3);
  const made: (Tensor | Weight)[] = [];
  const dispose = () => {
    for (const thing of made.splice(0)) thing[Symbol.dispose]();
  };
  const keep = <T extends Tensor | Weight>(thing: T): T => {
    made.push(thing);
    return thing;
  };
  let done = 0;
  const step = async <T extends Tensor | Weight>(item: string, make: () => T): Promise<T> => {
    await setImmediate();
    signal?.throwIfAborted();
    const thing = keep(make());
    done += 1;
    onProgress?.({ stage: 'load', item, done, total });
    return thing;
  };

  const matrix = (name: string, rows: number, cols: number) =>
    step(name, () => backend.weight([checkpoint.tensor(name, rows, cols)], { format }));
  const vector = (name: string, length: number) => step(name, () => backend.vector(checkpoint.tensor(name, 1, length)));
  const bias = (name: string, length: number) =>
    checkpoint.tensorNames.has(name) ? keep(backend.vector(checkpoint.tensor(name, 1, length))) : undefined;

  try {
    const embedding = await matrix('model.embed_tokens.weight', vocabSize, hiddenSize);
    const loaded: LlamaLayer[] = [];
    for (let layer = 0; layer < layers; layer += 1) {
      const prefix = `model.layers.${layer}`;
      for (const name of ['gate_proj', 'up_proj']) {
        const unsupported = `${prefix}.mlp.${name}.bias`;
        if (checkpoint.tensorNames.has(unsupported)) {
          throw new CheckpointError('biases of the gated MLP are not supported', {
            file: checkpoint.name,
            tensor: unsupported,
          });
        }
      }
      loaded.push({
        attentionNorm: await vector(`${prefix}.input_layernorm.weight`, hiddenSize),
        qkv: await step(`${prefix}.self_attn.qkv`, () =>
          backend.weight(
            [
              checkpoint.tensor(`${prefix}.self_attn.q_proj.weight`, queryHeads * headDim, hiddenSize),
              checkpoint.tensor(`${prefix}.self_attn.k_proj.weight`, kvHeads * headDim, hiddenSize),
              checkpoint.tensor(`${prefix}.self_attn.v_proj.weight`, kvHeads * headDim, hiddenSize),
            ],
            { format },
          ),
        ),
        qkvBias: stackedBias(backend, keep, checkpoint, [
          [`${prefix}.self_attn.q_proj.bias`, queryHeads * headDim],
          [`${prefix}.self_attn.k_proj.bias`, kvHeads * headDim],
          [`${prefix}.self_attn.v_proj.bias`, kvHeads * headDim],
        ]),
        o: await matrix(`${prefix}.self_attn.o_proj.weight`, hiddenSize, queryHeads * headDim),
        oBias: bias(`${prefix}.self_attn.o_proj.bias`, hiddenSize),
        mlpNorm: await vector(`${prefix}.post_attention_layernorm.weight`, hiddenSize),
        gateUp: await step(`${prefix}.mlp.gate_up`, () =>
          backend.weight(
            [
              checkpoint.tensor(`${prefix}.mlp.gate_proj.weight`, intermediateSize, hiddenSize),
              checkpoint.tensor(`${prefix}.mlp.up_proj.weight`, intermediateSize, hiddenSize),
            ],
            { format, gated: true },
          ),
        ),
        down: await matrix(`${prefix}.mlp.down_proj.weight`, hiddenSize, intermediateSize),
        downBias: bias(`${prefix}.mlp.down_proj.bias`, hiddenSize),
      });
      checkpoint.trim(); // or the file's pages would stay beside the weights made of them
    }
    return {
      embedding,
      layers: loaded,
      norm: await vector('model.norm.weight', hiddenSize),
      output: tiedEmbeddings ? embedding : await matrix('lm_head.weight', vocabSize, hiddenSize),
      bytes: made.reduce((sum, thing) => sum + ('bytes' in thing ? thing.bytes : thing.length * 4), 0),
      [Symbol.dispose]: dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** Biases of stacked matrices as one vector, zero where a part has none; nothing when no part has one. */
function stackedBias(
  backend: WeightBackend,
  keep: (tensor: Tensor) => Tensor,
  checkpoint: Checkpoint,
  parts: [name: string, length: number][],
): Tensor | undefined {
  if (!parts.some(([name]) => checkpoint.tensorNames.has(name))) return undefined;
  const total = parts.reduce((sum, [, length]) => sum + length, 0);
  const stacked = keep(backend.tensor(total));
  let at = 0;
  for (const [name, length] of parts) {
    if (checkpoint.tensorNames.has(name)) {
      using part = backend.vector(checkpoint.tensor(name, 1, length));
      backend.toHost(part, length);
      stacked.host.set(part.host.subarray(0, length), at);
    }
    at += length;
  }
  backend.toDevice(stacked, total);
  return stacked;
}
