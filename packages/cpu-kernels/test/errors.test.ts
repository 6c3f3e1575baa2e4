import { describe, expect, it } from 'vitest';
import {
  CpuBackend,
  DisposedError,
  InvalidArgumentError,
  OutOfMemoryError,
  type Weight,
  type WeightSource,
} from '../src/index.js';
import { f32Source, randomArray, tensorOf } from './helpers.js';

const backend = new CpuBackend({ threads: 1 });
const [rows, cols, outputs] = [2, 16, 3];
const source = f32Source(randomArray(outputs * cols, 1), outputs, cols);
const weight = backend.weight([source], { format: 'f32' });
const gated = backend.weight([source, source], { format: 'f32', gated: true });
const x = tensorOf(backend, randomArray(rows * cols, 2));
const out = backend.tensor(rows * outputs);

/** The call is refused by an error of that class whose message has the words. */
function refuses(
  call: () => unknown,
  words: string | RegExp,
  kind: new (...args: never[]) => Error = InvalidArgumentError,
): void {
  expect(call).toThrow(kind);
  expect(call).toThrow(words);
}

describe('refuses', () => {
  it('bad options of a backend', () => {
    for (const threads of [0, -1, 1.5, Number.NaN, 1025]) refuses(() => new CpuBackend({ threads }), 'threads');
    refuses(() => new CpuBackend({ isa: 'sse9' as never }), 'isa must be one of portable');
  });

  it('bad lengths of tensors', () => {
    for (const length of [0, -1, 0.5, 2 ** 40]) refuses(() => backend.tensor(length), 'length');
  });

  it('sources whose data does not fit the shape', () => {
    const make = (part: Partial<Record<string, unknown>>) => () =>
      backend.weight([{ ...source, ...part } as WeightSource], { format: 'bf16' });
    refuses(make({ data: new Uint8Array(8) }), '[3, 16] of f32 is 192 bytes, but data has 8');
    refuses(make({ data: [1, 2, 3] }), 'Uint8Array');
    refuses(make({ type: 'q8_0' }), 'multiple of 32');
    refuses(make({ type: 'q4_k', cols: 32 }), 'multiple of 256');
    refuses(make({ type: 'q2_k' }), 'not q2_k');
    refuses(make({ rows: 0 }), 'rows');
    refuses(make({ rowOrder: Uint32Array.of(0, 1) }), 'rowOrder');
    refuses(make({ rowOrder: Uint32Array.of(0, 1, 3) }), 'row 3 of 3');
    refuses(make({ type: 'random', seed: -1, std: 1 }), 'seed');
    refuses(make({ type: 'random', seed: 0, std: -1 }), 'std');
    refuses(make({ type: 'random', seed: 0, std: 1, mean: Number.NaN }), 'mean');
  });

  it('parts that do not fit each other', () => {
    const other = f32Source(randomArray(4 * 8, 1), 4, 8);
    refuses(() => backend.weight([], { format: 'f32' }), 'at least one');
    refuses(() => backend.weight([source, other], { format: 'f32' }), 'same cols');
    refuses(() => backend.weight([f32Source(randomArray(12, 1), 1, 12)], { format: 'f32' }), 'multiple of 8, not 12');
    refuses(() => backend.weight([source], { format: 'q8' }), 'multiple of 32, not 16');
    refuses(() => backend.weight([source], { format: 'f32', gated: true }), 'gated');
    const longer = f32Source(randomArray(4 * 16, 1), 4, 16);
    refuses(() => backend.weight([source, longer], { format: 'f32', gated: true }), 'gated');
    refuses(() => backend.weight([source], { format: 'fp8' as never }), 'fp8');
    refuses(() => backend.vector(source), 'rows must be 1');
  });

  it('what no memory holds', () => {
    // 562 TB: more than there are addresses.
    const vast: WeightSource = { type: 'random', rows: 65_536, cols: 2 ** 31 - 8, seed: 0, std: 1 };
    refuses(() => backend.weight([vast], { format: 'f32' }), 'no memory for a f32 weight', OutOfMemoryError);
  });

  it('operands of the wrong size', () => {
    const small = backend.tensor(5);
    refuses(() => backend.linear(small, x, weight, rows), 'out needs 6 elements and has 5');
    refuses(() => backend.linear(out, small, weight, rows), 'x needs 32 elements and has 5');
    refuses(() => backend.linear(out, x, weight, -1), 'rows');
    refuses(() => backend.linear(out, x, weight, 1.5), 'rows');
    refuses(() => backend.linear(out, x, weight, 1, { norm: { weight: small, epsilon: 0 } }), 'norm.weight');
    refuses(() => backend.linear(out, x, weight, 1, { norm: { weight: backend.tensor(16), epsilon: -1 } }), 'epsilon');
    refuses(() => backend.linear(out, x, weight, 1, { bias: small }), 'bias must have 3 elements, not 5');
    refuses(() => backend.linear(x, x, weight, 1), 'different');
    refuses(() => backend.linear({} as never, x, weight, 1), 'out must be a tensor');
  });

  it('weights of the wrong kind', () => {
    refuses(() => backend.linear(out, x, gated, 1), 'gated: false');
    refuses(() => backend.linearGated(out, x, weight, 1), 'gated: true');
    refuses(() => backend.linear(out, x, { rows: 3, cols: 16 } as Weight, 1), 'CpuBackend.weight');
  });

  it('indices out of range', () => {
    refuses(() => backend.embed(x, weight, Int32Array.of(0, 3)), 'tokens[1] is 3; it must be from 0 to 2');
    refuses(() => backend.embed(x, weight, Int32Array.of(-1)), 'tokens[0]');
    refuses(() => backend.embed(x, weight, [0] as never), 'Int32Array');
    refuses(() => backend.copyRows(out, x, Int32Array.of(8), 4), 'indices[0] is 8');
    refuses(() => backend.copyRows(out, x, Int32Array.of(0, 1, 2), 4), 'out needs 12 elements');
    refuses(() => backend.copyRows(out, x, Int32Array.of(0), 0), 'width');
    refuses(() => backend.copyRows(x, x, Int32Array.of(0), 4), 'different');
  });

  it('rotations that reach past their tensors', () => {
    const table = backend.tensor(16);
    refuses(() => backend.ropeTable(table, Int32Array.of(0, 1, 2), new Float32Array(4), 1), 'table needs 24');
    refuses(() => backend.ropeTable(table, Int32Array.of(0), new Float32Array(0), 1), 'inverseFrequencies');
    refuses(() => backend.ropeTable(table, Int32Array.of(0), new Float32Array(4), Number.NaN), 'scale');
    const shape = { rows: 2, stride: 16, heads: 2, headDim: 8 };
    refuses(() => backend.rope(x, table, { ...shape, stride: 15 }), 'stride');
    refuses(() => backend.rope(x, table, { ...shape, headDim: 7 }), 'even');
    refuses(() => backend.rope(x, table, { ...shape, rows: 3 }), 'x needs');
    refuses(() => backend.rope(x, backend.tensor(15), shape), 'table needs 16');
  });

  it('what was disposed', () => {
    const own = new CpuBackend({ threads: 2 });
    const tensor = own.tensor(64);
    const made = own.weight([source], { format: 'f32' });
    const view = tensor.host;
    tensor[Symbol.dispose]();
    tensor[Symbol.dispose]();
    expect(view.length).toBe(0);
    refuses(() => tensor.host, 'tensor of 64 elements', DisposedError);
    refuses(() => own.linear(out, tensor, made, 1), 'tensor', DisposedError);
    made[Symbol.dispose]();
    made[Symbol.dispose]();
    refuses(() => own.linear(out, x, made, 1), 'weight [3, 16]', DisposedError);
    refuses(() => own.embed(x, made, Int32Array.of(0)), 'weight', DisposedError);
    const kept = own.weight([source], { format: 'f32' });
    own[Symbol.dispose]();
    own[Symbol.dispose]();
    for (const call of [() => own.tensor(1), () => own.pool, () => own.linear(out, x, kept, 1)]) {
      refuses(call, 'backend', DisposedError);
    }
    // A weight outlives the backend that made it.
    backend.linear(out, x, kept, rows);
    const again = backend.tensor(rows * outputs);
    backend.linear(again, x, weight, rows);
    expect(out.host).toEqual(again.host);
  });
});

it('takes no rows as nothing to do', () => {
  const untouched = tensorOf(backend, [7]);
  backend.linear(untouched, x, weight, 0);
  backend.embed(untouched, weight, new Int32Array(0));
  backend.copyRows(untouched, x, new Int32Array(0), 4);
  backend.ropeTable(untouched, new Int32Array(0), new Float32Array(4), 1);
  backend.rope(x, untouched, { rows: 0, stride: 16, heads: 1, headDim: 8 });
  expect(untouched.host[0]).toBe(7);
});
