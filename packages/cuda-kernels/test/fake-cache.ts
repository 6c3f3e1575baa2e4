// A cache on a device that computes nothing and checks everything.
import {
  type AttendOptions,
  CudaBackend,
  CudaKvCache,
  type CudaKvSequence,
  type KeySketches,
  type Sampling,
} from '../src/index.js';
import { FakeHostCache } from './fake-host-cache.js';
import { FakeNative } from './fake-native.js';

export const SHAPE = { layers: 3, queryHeads: 4, kvHeads: 2, headDim: 16, maxRows: 200 };
export const PAGE = 64 * 2 * 2 * 16 * 2; // bytes of 64 tokens of a layer
export const sampling: Sampling = { selector: {}, begin: 4, end: 60 };

/** What layers are sampled: layer 0 is dense. */
export const sampled = (layer: number): Sampling | null => (layer === 0 ? null : sampling);

/** The sketches of each layer, and the errors of draws from them. */
export const SKETCHES = [0, 1, 2].map((): KeySketches & { errors: number[] } => {
  const errors: number[] = [];
  const shape = { bits: 2, seed: 1, budget: { share: 0.1 }, floor: 0.02 };
  return { ...shape, errors, centre: () => new Float32Array(16), drawn: (error) => errors.push(error) };
});

/** The same, drawn from these. */
export const drawn = (layer: number): Sampling | null =>
  layer === 0 ? null : { ...sampling, sketch: SKETCHES[layer]! };

export interface Entry {
  sequence: CudaKvSequence;
  tokens: number;
  sampling?: (layer: number) => Sampling | null;
  keysRead?: Float64Array;
}

export function setUp({ pages = 60, onHost = true, sketchBytes = 0 } = {}) {
  const fake = new FakeNative();
  const backend = new CudaBackend({ pool: {}, threads: 2 }, fake.native);
  const host = new FakeHostCache(fake);
  const deviceBytes = pages * PAGE;
  const cache = new CudaKvCache({ backend, ...SHAPE, deviceBytes, sketchBytes, ...(onHost && { host }) });
  const make = (rows: number) => ({
    qkv: backend.tensor(rows * 8 * 16),
    rotations: backend.tensor(rows * 16),
    output: backend.tensor(rows * 4 * 16),
  });
  const kept = new Map<string, ReturnType<typeof make>>();
  /** Activations of a group, kept for its next steps. */
  const activationsOf = (name: string, rows: number) => {
    const tensors = kept.get(`${name} ${rows}`) ?? make(rows);
    kept.set(`${name} ${rows}`, tensors);
    return tensors;
  };
  /** A group's way through all layers, as a model goes it: it yields where another group may take its turn. */
  function* pass(entries: Entry[], name = 'pass'): Generator<void, void> {
    const rows = entries.reduce((sum, { tokens }) => sum + tokens, 0);
    const activations = activationsOf(name, rows);
    const samples = ({ sampling }: Entry) => [0, 1, 2].some((layer) => sampling?.(layer));
    const step = cache.step(entries.map((entry) => ({ ...entry, sampled: samples(entry) })));
    try {
      for (let layer = 0; layer < SHAPE.layers; layer += 1) {
        fake.calls.push({ name: `${name} computes`, args: [layer] });
        const keysRead = entries[0]!.keysRead;
        const sampling = entries.map((entry) => entry.sampling?.(layer) ?? null);
        const options: AttendOptions = { sampling, ...(keysRead && { keysRead }) };
        step.begin(layer, activations, options);
        yield;
        step.finish(layer);
      }
      step.end();
    } catch (error) {
      step.rollback();
      throw error;
    }
  }
  const run = (entries: Entry[]) => {
    for (const _ of pass(entries));
  };
  const dispose = () => {
    cache[Symbol.dispose]();
    backend[Symbol.dispose]();
  };
  return { fake, backend, host, cache, pass, run, dispose };
}

const INTERESTING =
  /^(ropeSplit|rope|attention(Prefill|Decode)|mergeAttention|copyMatrix|recordEvent|waitEvent|synchronizeEvent|scatterRows|host\.\w+|.* computes)$/;
/** Names of the calls that matter to the order. */
export const order = (fake: FakeNative) => fake.names.filter((name) => INTERESTING.test(name));
