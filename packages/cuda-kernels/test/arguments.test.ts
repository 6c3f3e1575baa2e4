import { describe, expect, it } from 'vitest';
import {
  add,
  addRmsNorm,
  attentionDecode,
  attentionPrefill,
  columnMean,
  convert,
  copyRows,
  type Device,
  type DType,
  embed,
  fillNormal,
  InvalidArgumentError,
  kvView,
  linear,
  linearGated,
  mergeAttention,
  packWeight,
  projectionLength,
  rmsNorm,
  rope,
  ropeSplit,
  ropeTable,
  type Stream,
  scatterRows,
  simhash,
  simhashProjections,
  sketchDraw,
  sketchEncode,
  sketchFlips,
  swiglu,
  tableBuild,
  unpackWeight,
} from '../src/index.js';
import { checkBudget } from '../src/kernels/sketch-budget.js';
import { FakeNative } from './fake-native.js';

type Args = Record<string, unknown>;

interface Kernel {
  run: (stream: Stream, args: never) => void;
  /** Arrays by argument: type and exactly as many elements as the kernel touches. */
  arrays: Record<string, [DType, number]>;
  /** Sizes and other arguments, and for each that is checked one value that must be refused. */
  sizes: Args;
  wrong: Args;
}

const rows = 3;
const sketch = { dim: 60, bits: 3, kvHeads: 2, pages: 5 };
const sketchStore = {
  codes: ['i32', 5 * 2 * 1024 * 3 * 2],
  factors: ['u16', 5 * 2 * 1024],
  flips: ['i32', 6],
} satisfies Kernel['arrays'];
const hash = { dim: 64, bits: 12, tables: 5 };

const KERNELS: Record<string, Kernel> = {
  rmsNorm: {
    run: rmsNorm,
    arrays: { out: ['bf16', 3 * 40], x: ['f32', 3 * 40], weight: ['f32', 40] },
    sizes: { rows, columns: 40, epsilon: 1e-5 },
    wrong: { rows: -1, columns: 12, epsilon: Number.NaN },
  },
  addRmsNorm: {
    run: addRmsNorm,
    arrays: { out: ['bf16', 3 * 40], x: ['f32', 3 * 40], y: ['f32', 3 * 40], weight: ['f32', 40] },
    sizes: { rows, columns: 40, epsilon: 1e-5 },
    wrong: { rows: 1.5, columns: 0 },
  },
  ropeTable: {
    run: ropeTable,
    arrays: { table: ['f32', 3 * 16], positions: ['i32', 3], inverseFrequencies: ['f32', 8] },
    sizes: { rows, headDim: 16 },
    wrong: { headDim: 4, scale: Number.POSITIVE_INFINITY },
  },
  rope: {
    run: rope,
    arrays: { x: ['f32', 2 * 64 + 48], table: ['f32', 3 * 16] },
    sizes: { rows, stride: 64, heads: 3, headDim: 16 },
    wrong: { stride: 44, headDim: 12, heads: -1 },
  },
  ropeSplit: {
    run: ropeSplit,
    arrays: {
      qkv: ['f32', 3 * 8 * 16],
      table: ['f32', 3 * 16],
      q: ['bf16', 3 * 4 * 16],
      k: ['bf16', 3 * 2 * 16],
      v: ['bf16', 3 * 2 * 16],
    },
    sizes: { rows, queryHeads: 4, kvHeads: 2, headDim: 16 },
    wrong: { kvHeads: 0, headDim: 20 },
  },
  scatterRows: {
    run: scatterRows,
    arrays: { out: ['bf16', 3 * 2 * 16], x: ['bf16', 3 * 2 * 16] },
    sizes: { rows, heads: 2, headDim: 16 },
    wrong: { rows: -1, heads: 0, headDim: 12 },
  },
  swiglu: {
    run: swiglu,
    arrays: { out: ['bf16', 3 * 24], gateUp: ['f32', 3 * 48] },
    sizes: { rows, width: 24 },
    wrong: { width: 20 },
  },
  add: { run: add, arrays: { x: ['f32', 33], y: ['f32', 33] }, sizes: { count: 33 }, wrong: { count: -1 } },
  embed: {
    run: embed,
    arrays: { out: ['f32', 3 * 16], table: ['bf16', 100 * 16], tokens: ['i32', 3] },
    sizes: { rows, width: 16, vocabulary: 100 },
    wrong: { width: 4, vocabulary: 0 },
  },
  copyRows: {
    run: copyRows,
    arrays: { out: ['f32', 3 * 12], indices: ['i32', 3] },
    sizes: { rows, width: 12 },
    wrong: { width: 6 },
  },
  convert: { run: convert, arrays: { out: ['bf16', 33], x: ['f32', 33] }, sizes: { count: 33 }, wrong: { count: 0.5 } },
  fillNormal: { run: fillNormal, arrays: {}, sizes: { seed: 1 }, wrong: { seed: -1, first: 2, deviation: Number.NaN } },
  'linear, few rows': {
    run: linear,
    arrays: { out: ['f32', 3 * 20], x: ['bf16', 3 * 40], weight: ['bf16', 20 * 40], bias: ['f32', 20] },
    sizes: { rows, outputs: 20, inputs: 40 },
    wrong: { inputs: 12, outputs: 0, rows: -1 },
  },
  'linear, many rows': {
    run: linear,
    arrays: { out: ['f32', 30 * 20], x: ['bf16', 30 * 40], weight: ['bf16', 20 * 40] },
    sizes: { rows: 30, outputs: 20, inputs: 40 },
    wrong: {},
  },
  'linear, 8-bit blocks': {
    run: (stream: Stream, { values, scales, ...rest }: Args) =>
      linear(stream, { ...rest, weight: { kind: 'q8', values, scales } } as never),
    arrays: { out: ['f32', 3 * 20], x: ['bf16', 3 * 96], values: ['u8', 20 * 128], scales: ['u16', 20 * 4] },
    sizes: { rows, outputs: 20, inputs: 96 },
    wrong: { inputs: 40, rows: 17 },
  },
  packWeight: {
    run: (stream: Stream, { values, scales, ...rest }: Args) =>
      packWeight(stream, { ...rest, weight: { kind: 'q4', values, scales } } as never),
    arrays: { source: ['u8', 3 * 2 * 144], values: ['u8', 5 * 256], scales: ['u16', 5 * 32] },
    sizes: { type: 'q4_k', rows, columns: 512, firstRow: 2 },
    wrong: { columns: 96, rows: -1, firstRow: 0.5, type: 'q3_k' },
  },
  unpackWeight: {
    run: (stream: Stream, { values, scales, ...rest }: Args) =>
      unpackWeight(stream, { ...rest, weight: { kind: 'q8', values, scales } } as never),
    arrays: { out: ['bf16', 3 * 32], indices: ['i32', 3], values: ['u8', 7 * 64], scales: ['u16', 14] },
    sizes: { rows, columns: 32, matrixRows: 7 },
    wrong: { columns: 40, matrixRows: -1 },
  },
  linearGated: {
    run: linearGated,
    arrays: { out: ['bf16', 3 * 16], x: ['bf16', 3 * 40], weight: ['bf16', 32 * 40] },
    sizes: { rows, width: 16, inputs: 40 },
    wrong: { rows: 17, width: 12 },
  },
  attentionPrefill: {
    run: attentionPrefill,
    arrays: { out: ['f32', 3 * 4 * 16], q: ['bf16', 3 * 4 * 16], logSumExp: ['f32', 12] },
    sizes: { queries: 3, keys: 0, queryHeads: 4, kvHeads: 2, headDim: 16, queryPosition: 0 },
    wrong: { headDim: 136, kvHeads: 3, keys: -1, keyPosition: -1 },
  },
  attentionDecode: {
    run: attentionDecode,
    arrays: {
      out: ['bf16', 2 * 4 * 16],
      q: ['bf16', 2 * 4 * 16],
      lengths: ['i32', 2],
      logSumExp: ['f32', 8],
      workspace: ['u8', 2 * 4 * 3 * 17 * 4],
    },
    sizes: { sequences: 2, maxKeys: 150, split: 64, queryHeads: 4, kvHeads: 2, headDim: 16 },
    wrong: { split: 100, sequences: 65536, maxKeys: -1 },
  },
  mergeAttention: {
    run: mergeAttention,
    arrays: {
      out: ['bf16', 3 * 16],
      a: ['f32', 48],
      b: ['f32', 48],
      lseA: ['f32', 3],
      lseB: ['f32', 3],
      logSumExp: ['f32', 3],
    },
    sizes: { rows, headDim: 16 },
    wrong: { headDim: 6 },
  },
  simhashProjections: {
    run: simhashProjections,
    arrays: { out: ['i8', projectionLength(hash)] },
    sizes: { ...hash, seed: 5 },
    wrong: { dim: 6, bits: 17, tables: 0, seed: -1 },
  },
  simhash: {
    run: simhash,
    arrays: {
      codes: ['u16', 3 * 5],
      x: ['f32', 2 * 80 + 64],
      centre: ['f32', 64],
      projections: ['i8', projectionLength(hash)],
      inverseNorms: ['f32', 3],
      nonFinite: ['i32', 1],
    },
    sizes: { ...hash, rows, stride: 80 },
    wrong: { stride: 60, dim: 260, layout: 'columns' },
  },
  'simhash by hadamard': {
    run: simhash,
    arrays: { codes: ['u16', 3 * 5], x: ['bf16', 3 * 64], projections: ['i8', 3 * 8] },
    sizes: { ...hash, projection: 'hadamard', rows },
    wrong: { projection: 'random' },
  },
  sketchFlips: {
    run: sketchFlips,
    arrays: { flips: ['i32', 6] },
    sizes: { dim: 60, seed: 1 },
    wrong: { seed: 0.5, dim: 257 },
  },
  sketchEncode: {
    run: sketchEncode,
    arrays: {
      ...sketchStore,
      pageTable: ['i32', 3 + 2],
      x: ['bf16', 4 * 150 + 70 + 60],
      centres: ['f32', 2 * 60],
      rejected: ['i32', 1],
    },
    sizes: { ...sketch, pageTableStride: 3, sequence: 1, rows: 5, rowStride: 150, headStride: 70, firstKey: 1020 },
    wrong: {
      bits: 5,
      rows: -1,
      rowStride: 59,
      headStride: 59,
      firstKey: -1,
      sequence: -1,
      pageTableStride: 1,
      pages: 0,
    },
  },
  'sketchEncode without a page table': {
    run: sketchEncode,
    arrays: { ...sketchStore, x: ['f32', 5 * 120] },
    sizes: { ...sketch, rows: 5, firstKey: 5 * 1024 - 5 },
    wrong: { pages: 4 },
  },
  sketchDraw: {
    run: sketchDraw,
    arrays: {
      ...sketchStore,
      pageTable: ['i32', 4],
      samples: ['i32', 2 * 6 * (2 + 2 * 50)],
      q: ['f32', 370 + 6 * 60],
      keys: ['i32', 2],
      steps: ['i32', 2],
      workspace: ['u8', 60 + 2 + 3 + 2 + 1030],
    },
    sizes: {
      ...sketch,
      queryHeads: 6,
      sequences: 2,
      maxKeys: 1030,
      room: 50,
      qStride: 370,
      budget: { error: 0.1 },
      layer: 0,
      seed: 3,
    },
    wrong: {
      queryHeads: 5,
      sequences: 65535,
      maxKeys: -1,
      room: -1,
      qStride: 359,
      budget: { share: 2 },
      floor: 0,
      scale: 0,
      layer: 2 ** 32,
      pageTableStride: 1,
      seed: -1,
    },
  },
  columnMean: {
    run: columnMean,
    arrays: { mean: ['f32', 2 * 16], x: ['bf16', 2 * 40 + 20 + 16] },
    sizes: { rows, heads: 2, dim: 16, stride: 40, headStride: 20 },
    wrong: { rows: 0, heads: 0 },
  },
  tableBuild: {
    run: tableBuild,
    arrays: { starts: ['u16', 4 * 4097], ids: ['u16', 4 * 100], codes: ['u16', 3 * 120 + 100], workspace: ['u8', 800] },
    sizes: { keys: 100, bits: 12, tables: 4, codesStride: 120 },
    wrong: { keys: 65536, bits: 0, codesStride: 99 },
  },
};

// Arrays whose size the kernel does not know in advance.
function others(name: string, device: Device): Args {
  if (name === 'copyRows') return { x: device.array('f32', 10 * 12) };
  if (name === 'fillNormal') return { out: device.array('bf16', 100) };
  if (name === 'attentionPrefill') {
    const k = device.array('bf16', 64);
    return { kv: kvView(k, k, { kvHeads: 2, headDim: 16 }) };
  }
  if (name === 'attentionDecode') {
    const k = device.array('bf16', 2 * 150 * 32);
    return { kv: kvView(k, k, { kvHeads: 2, headDim: 16 }) };
  }
  return {};
}

describe.each(Object.entries(KERNELS))('%s', (name, kernel) => {
  const setUp = (shorter?: string, other?: string) => {
    const fake = new FakeNative();
    const device = fake.device();
    const elsewhere = fake.device({ index: 1 });
    const stream = device.stream();
    const args: Args = { ...kernel.sizes, ...others(name, device) };
    for (const [argument, [dtype, length]] of Object.entries(kernel.arrays)) {
      args[argument] = (argument === other ? elsewhere : device).array(dtype, length - (argument === shorter ? 1 : 0));
    }
    fake.forget();
    return { fake, stream, args, run: (more: Args = {}) => kernel.run(stream, { ...args, ...more } as never) };
  };

  it('queues one kernel when every array is exactly large enough', () => {
    const { fake, run } = setUp();
    run();
    const queued = fake.names.filter((call) => !/Workspace$|openCublasLt|setDevice/.test(call));
    expect(queued).toHaveLength(1);
    expect(fake.problems).toEqual([]);
    const [call] = fake.calls.filter((each) => each.name === queued[0]);
    for (const value of call!.args) expect(typeof value === 'boolean' || Number.isFinite(value)).toBe(true);
  });

  it('refuses an array that is one element short, of another device or type, and queues nothing', () => {
    for (const [argument, [dtype]] of Object.entries(kernel.arrays)) {
      for (const { fake, run } of [setUp(argument), setUp(undefined, argument)]) {
        expect(run, argument).toThrow(InvalidArgumentError);
        expect(run, argument).toThrow(argument);
        expect(fake.names.filter((call) => !/Workspace$|openCublasLt|setDevice/.test(call))).toEqual([]);
      }
      const { run, stream } = setUp();
      const mistyped = stream.device.array(dtype === 'i32' ? 'u16' : 'i32', 100_000);
      expect(() => run({ [argument]: mistyped }), argument).toThrow(InvalidArgumentError);
      const misaligned = stream.device.array(dtype, 100_000).view(1);
      expect(() => run({ [argument]: misaligned }), argument).toThrow(/multiple of 16 bytes/);
    }
  });

  it('refuses wrong sizes, naming them', () => {
    for (const [argument, value] of Object.entries(kernel.wrong)) {
      const { run } = setUp();
      expect(() => run({ [argument]: value }), argument).toThrow(InvalidArgumentError);
      expect(() => run({ [argument]: value }), argument).toThrow(argument);
    }
  });
});

describe('a budget of keys', () => {
  it.each([
    [{ count: 20 }, [0, 20, 0, 1]],
    [{ share: 0.1 }, [1, 0.1, 0, 1]],
    [{ error: 0.05 }, [2, 0.05, 0.005, 0.25]],
    [{ error: 0.05, min: 0.5 }, [2, 0.05, 0.5, 0.5]],
    [{ error: 0.05, min: 0.01, max: 1 }, [2, 0.05, 0.01, 1]],
  ])('%j is passed on', (budget, expected) => {
    expect(checkBudget(budget)).toEqual(expected);
  });

  it.each([
    [null, /null/],
    [{}, /budget\.error/],
    [{ count: 0.5 }, /budget\.count/],
    [{ share: 0 }, /budget\.share/],
    [{ error: Number.NaN }, /budget\.error/],
    [{ error: 0.1, min: 2 }, /budget\.min/],
    [{ error: 0.1, min: 0.5, max: 0.4 }, /budget\.max \(0\.4\) must be at least budget\.min/],
  ])('%j is refused', (budget, message) => {
    expect(() => checkBudget(budget as never)).toThrow(InvalidArgumentError);
    expect(() => checkBudget(budget as never)).toThrow(message);
  });
});

describe('keys and values', () => {
  const heads = { queryHeads: 2, kvHeads: 2, headDim: 16 };
  const prefill = (keys: number, length: number, paged: boolean) => {
    const fake = new FakeNative();
    const device = fake.device();
    const k = device.array('bf16', length);
    const pages = paged ? device.array('i32', Math.ceil(keys / 64)) : undefined;
    attentionPrefill(device.stream(), {
      ...heads,
      out: device.array('f32', 32),
      q: device.array('bf16', 32),
      kv: kvView(k, k, { ...heads, pages }),
      queries: 1,
      keys,
    });
    return fake.calls.at(-1)!.args;
  };

  it('must hold as many tokens as are attended to', () => {
    expect(() => prefill(130, 130 * 32, false)).not.toThrow();
    expect(() => prefill(130, 130 * 32 - 1, false)).toThrow(/kv\.k holds 4159 elements, but the kernel touches 4160/);
    expect(() => prefill(64, 64 * 32, false)).not.toThrow();
    expect(() => prefill(64, 63 * 32, false)).toThrow(InvalidArgumentError);
    expect(() => prefill(130, 64 * 32, true)).not.toThrow();
    expect(() => prefill(130, 64 * 32 - 1, true)).toThrow(InvalidArgumentError);
  });

  it('the last queries are at the end by default', () => {
    const args = prefill(130, 130 * 32, false);
    expect(args.slice(-3)).toEqual([129, 0, 0.25]);
  });

  it('of several sequences must all fit', () => {
    const fake = new FakeNative();
    const device = fake.device();
    const decode = (length: number) => {
      const k = device.array('bf16', length);
      attentionDecode(device.stream(), {
        ...heads,
        out: device.array('f32', 96),
        q: device.array('bf16', 96),
        lengths: device.array('i32', 3),
        kv: kvView(k, k, heads),
        sequences: 3,
        maxKeys: 100,
        split: 128,
      });
    };
    expect(() => decode(300 * 32)).not.toThrow();
    expect(() => decode(300 * 32 - 1)).toThrow(InvalidArgumentError);
  });
});
