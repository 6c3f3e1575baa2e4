// Key sketches and draws from them, beside KeySketch of @magicpig/lsh.
import { KeySketch } from '@magicpig/lsh';
import { expect, it } from 'vitest';
import {
  columnMean,
  type SketchBudget,
  sketchDraw,
  sketchDrawWorkspace,
  sketchEncode,
  sketchFlips,
  sketchLengths,
  sketchSample,
  sketchSampleWords,
} from '../src/index.js';
import { type Bench, onDevices } from './on-devices.js';

interface Case {
  dim: number;
  bits: number;
  kvHeads: number;
  group: number;
  /** Of each sequence. */
  keys: number[];
  budget: SketchBudget;
  floor?: number;
  scale?: number;
  bf16?: boolean;
  centred?: boolean;
  seed?: number;
  layer?: number;
}

/** Sketches of random keys on the device, and the same in @magicpig/lsh: those of one layer of each sequence. */
class Pair {
  readonly layer: number;
  readonly hosts: KeySketch[];
  readonly sizes;
  readonly arrays;

  constructor(
    readonly bench: Bench,
    readonly options: Case,
  ) {
    const { dim, bits, kvHeads, group, keys, seed = 7, layer = 0, centred = true, budget, floor, scale } = options;
    const { device, stream, normals, f32, i32 } = bench;
    this.layer = layer;
    const maxKeys = Math.max(...keys);
    const pageTableStride = Math.ceil(maxKeys / 1024);
    const pages = keys.length * pageTableStride;
    this.sizes = { dim, bits, kvHeads, pages, queryHeads: kvHeads * group, sequences: keys.length, maxKeys };
    const lengths = sketchLengths(this.sizes);
    this.arrays = {
      codes: device.array('i32', lengths.codes),
      factors: device.array('u16', lengths.factors),
      flips: device.array('i32', lengths.flips),
      pageTable: i32(Array.from({ length: pages }, (_, i) => pages - 1 - i)),
      pageTableStride,
      workspace: device.array('u8', sketchDrawWorkspace(stream, this.sizes)),
    };
    sketchFlips(stream, { dim, flips: this.arrays.flips, seed });
    const heads = (layer + 1) * kvHeads;
    this.hosts = keys.map((count, sequence) => {
      const center = centred ? 'auto' : 'none';
      const host = new KeySketch({ dim, heads, bits, seed, center, budget, floor, scale, threads: 1 });
      // A narrow cone, as a transformer's keys are; bf16 values, so that both types say the same.
      const x = normals(count * kvHeads * dim).map((value, i) => 3 * Math.sin(i % (kvHeads * dim)) + value);
      const rounded = options.bf16 ? bench.bf16(x) : f32(x);
      const values = options.bf16 ? bench.floats(bench.bf16(x)) : x;
      const centres = device.array('f32', kvHeads * dim);
      // As a context grows: a prompt, then blocks. The centre is the mean of the prompt's keys.
      const blocks = [Math.ceil(count * 0.6), Math.ceil(count * 0.1), count].map((end) => Math.min(end, count));
      let first = 0;
      for (const size of blocks) {
        const rows = Math.min(size, count - first);
        if (rows === 0) continue;
        const from = rounded.view(first * kvHeads * dim, rows * kvHeads * dim);
        if (centred && first === 0) columnMean(stream, { mean: centres, x: from, rows, dim, heads: kvHeads });
        const position = { sequence, firstKey: first, rows };
        sketchEncode(stream, { ...this.sizes, ...this.arrays, x: from, ...position, ...(centred && { centres }) });
        for (let head = 0; head < kvHeads; ++head) {
          const own = new Float32Array(rows * dim);
          for (let row = 0; row < rows; ++row) {
            const at = ((first + row) * kvHeads + head) * dim;
            own.set(values.subarray(at, at + dim), row * dim);
          }
          host.add(own, layer * kvHeads + head);
        }
        first += rows;
      }
      return host;
    });
  }

  /** Draws on both, and expects the same. Returns how many keys were drawn. */
  check(step: number): number {
    const { device, stream, normals, f32, i32 } = this.bench;
    const { dim, kvHeads, group, keys, budget, floor, scale, seed = 7 } = this.options;
    const { queryHeads, sequences, maxKeys: room } = this.sizes;
    const q = normals(sequences * queryHeads * dim);
    const samples = device.array('i32', sequences * queryHeads * sketchSampleWords(room));
    sketchDraw(stream, {
      ...this.sizes,
      ...this.arrays,
      samples,
      room,
      q: f32(q),
      keys: i32(keys),
      steps: i32(keys.map((_, sequence) => step + sequence)),
      budget,
      floor,
      scale,
      layer: this.layer,
      seed,
    });
    const host = samples.read();
    let drawn = 0;
    for (let row = 0; row < sequences * queryHeads; ++row) {
      const sequence = Math.floor(row / queryHeads);
      const head = this.layer * kvHeads + Math.floor((row % queryHeads) / group);
      const sample = sketchSample(host, room, row);
      const expected = this.hosts[sequence]!.sample(q.subarray(row * dim, (row + 1) * dim), {
        head,
        step: step + sequence,
      });
      expect(sample.count).toBe(expected.ids.length);
      expect(sample.ids).toEqual(expected.ids);
      expect(sample.logProbabilities).toEqual(expected.logProbabilities);
      expect(sample.error).toBe(Math.fround(expected.error));
      drawn += sample.count;
    }
    return drawn;
  }
}

const BITS = [1, 2, 3, 4];
const DIMS = [64, 80, 128, 256];

onDevices((bench) => {
  // Every number of bits with every dimension; groups, budgets, floors and lengths at the edges of blocks and pages go through the grid.
  const grid = BITS.flatMap((bits, b) =>
    DIMS.map((dim, d): Case => {
      const group = [1, 3, 4, 8][(b + d) % 4]!;
      const keys = [[63], [64, 65], [127, 1], [130]][(b + 2 * d) % 4]!;
      const budgets: SketchBudget[] = [{ share: 0.1 }, { count: 30 }, { error: 0.1, min: 0.05, max: 0.6 }];
      const kvHeads = group > 3 ? 1 : 2;
      const budget = budgets[(2 * b + d) % 3]!;
      const floor = [0.02, 0.5, 1e-6][(b + d) % 3]!;
      return { dim, bits, kvHeads, group, keys, budget, floor, bf16: d % 2 === 0, layer: b, seed: 2 ** 40 + d };
    }),
  );
  it.each(grid)('draws as @magicpig/lsh: $bits bits, d = $dim, $keys keys, groups of $group', (options) => {
    const pair = new Pair(bench, options);
    expect(pair.check(5) + pair.check(2 ** 31 - 3)).toBeGreaterThan(0);
  });

  it.each<Case>([
    { dim: 64, bits: 2, kvHeads: 1, group: 2, keys: [1030, 1024, 1023], budget: { share: 0.05 } },
    { dim: 64, bits: 4, kvHeads: 1, group: 1, keys: [200], budget: { count: 100_000 } },
    { dim: 64, bits: 3, kvHeads: 1, group: 1, keys: [300], budget: { error: 1e-3, max: 1 }, scale: 0.5 },
    { dim: 40, bits: 1, kvHeads: 2, group: 1, keys: [150], budget: { share: 0.2 }, centred: false },
    { dim: 64, bits: 2, kvHeads: 1, group: 1, keys: [200], budget: { count: 3 }, scale: 3 },
  ])('draws as @magicpig/lsh: $keys keys, $budget', (options) => {
    expect(new Pair(bench, options).check(1)).toBeGreaterThan(0);
  });

  it('draws as @magicpig/lsh where only a part of the keys is counted', () => {
    const pair = new Pair(bench, { dim: 16, bits: 1, kvHeads: 1, group: 2, keys: [4_200], budget: { share: 0.05 } });
    expect(pair.check(9)).toBeGreaterThan(300);
  });

  it('says which queries and keys it could not use', () => {
    const { device, stream, f32, i32, normals } = bench;
    const sizes = { dim: 64, kvHeads: 1, pages: 1, queryHeads: 2, maxKeys: 100 };
    const lengths = sketchLengths(sizes);
    const store = {
      codes: device.array('i32', lengths.codes),
      factors: device.array('u16', lengths.factors),
      flips: device.array('i32', lengths.flips),
    };
    sketchFlips(stream, { dim: 64, flips: store.flips });
    const x = normals(100 * 64);
    x[64] = Number.NaN;
    const rejected = i32([0]);
    sketchEncode(stream, { ...sizes, ...store, x: f32(x), rows: 100, rejected });
    expect([...rejected.read()]).toEqual([1]);
    const q = normals(128);
    q[0] = Number.POSITIVE_INFINITY;
    const room = 3;
    const samples = device.array('i32', 2 * sketchSampleWords(room));
    const workspace = device.array('u8', sketchDrawWorkspace(stream, sizes));
    const step = { keys: i32([100]), steps: i32([1]), budget: { count: 50 }, layer: 0 };
    sketchDraw(stream, { ...sizes, ...store, ...step, samples, room, q: f32(q), workspace });
    const host = samples.read();
    expect(sketchSample(host, room, 0).count).toBe(-1);
    expect(sketchSample(host, room, 0).ids).toHaveLength(0);
    // More than there was room for: said, and what is there is a part of the sample.
    expect(sketchSample(host, room, 1).count).toBeGreaterThan(30);
    expect(sketchSample(host, room, 1).ids).toHaveLength(room);
  });
});
