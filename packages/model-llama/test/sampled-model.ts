import type { AttentionOptions, LoadOptions } from '../src/api.js';
import { resolveAttention } from '../src/attention-options.js';
import { createModelHost } from '../src/model-host.js';
import { PolicyFactory } from '../src/policy-factory.js';
import { hashedIntegers } from './hashed-values.js';
import { randomCheckpoint, tensorShapes } from './random-checkpoint.js';
import { relativeError } from './relative-error.js';

/** 4 layers (0 dense), 4 query heads on 2 KV heads. */
export const config = {
  architecture: 'llama',
  vocabSize: 96,
  hiddenSize: 64,
  intermediateSize: 96,
  layers: 4,
  queryHeads: 4,
  kvHeads: 2,
  headDim: 32,
  maxPositions: 4096,
  rmsNormEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: { type: 'default' },
  tiedEmbeddings: false,
} as const;
const model = { name: 'magicpig', config, tensors: tensorShapes(config) };
export const prompt = (tokens: number, name = 'prompt') => hashedIntegers(`magicpig/${name}`, tokens, config.vocabSize);
export const host = (options: LoadOptions = {}) =>
  createModelHost(randomCheckpoint(model), { cacheBytes: 2 ** 28, ...options });
/** The same on an emulated device. */
export const deviceHost = (options: LoadOptions = {}) =>
  createModelHost(
    randomCheckpoint(model),
    { backend: 'cuda', maxSequences: 4, contextTokens: 1024, threads: 1, cacheBytes: 2 ** 26, ...options },
    { emulate: true },
  );

/** Logits of decode steps over fixed tokens. */
export async function decodeLogits(
  attention: AttentionOptions,
  promptTokens: number,
  steps: number,
  load = () => host({ weights: 'f32' }),
): Promise<Float32Array[]> {
  using parts = await load();
  const { cache, llama, backend } = parts;
  using sequence = cache.open();
  const policies = new PolicyFactory({ config, cache, pool: backend.pool });
  using state = policies.policy(resolveAttention(attention, config.layers)).open(sequence);
  const tokens = prompt(promptTokens + steps);
  for (let begin = 0; begin < promptTokens; begin += 256) {
    const chunk = tokens.subarray(begin, Math.min(begin + 256, promptTokens));
    llama.forward([{ sequence, tokens: chunk, promptTokens, logits: 'none' }]);
  }
  const rows: Float32Array[] = [];
  for (let i = promptTokens; i < promptTokens + steps; i += 1) {
    while (!state.ready) state.prepare(100);
    const next = tokens.subarray(i, i + 1);
    const { logits } = llama.forward([{ sequence, tokens: next, promptTokens, attention: state, logits: 'last' }]);
    rows.push(logits[0]!.slice());
  }
  return rows;
}

/** Relative errors of a decode step's logits against dense: the mean of those of single seeds, and that of the seeds' mean. */
export async function errorsOverSeeds(attention: AttentionOptions, seeds: number) {
  const [dense] = await decodeLogits({ policy: 'dense' }, 300, 1);
  const mean = new Float64Array(config.vocabSize);
  let single = 0;
  for (let seed = 0; seed < seeds; seed += 1) {
    const [row] = await decodeLogits({ ...attention, seed } as AttentionOptions, 300, 1);
    single += relativeError(row!, dense!) / seeds;
    for (const [token, logit] of row!.entries()) mean[token]! += logit / seeds;
  }
  return { single, ofMean: relativeError(mean, dense!) };
}
