import { describe, expect, it } from 'vitest';
import { CpuBackend, type Tensor, type Weight } from '../src/index.js';
import { f32Source, formats, paths, poisoned, quantisedFormats, randomArray, sameBits, tensorOf } from './helpers.js';

// cols beyond one block of columns, outputs that fill no panel.
const shapes = [
  { cols: 96, outputs: 77, most: 40 },
  { cols: 2080, outputs: 33, most: 27 },
];

describe.each(paths)('%s', (isa) => {
  describe.each([...formats, ...quantisedFormats])('%s', (format) => {
    it.each(shapes)(
      'a row of [n <= $most, $cols] has the same bits whatever n and the threads',
      ({ cols, outputs, most }) => {
        using one = new CpuBackend({ isa, threads: 1 });
        using three = new CpuBackend({ isa, threads: 3 });
        const x = tensorOf(one, randomArray(most * cols, 1));
        const norm = { weight: tensorOf(one, randomArray(cols, 2)), epsilon: 1e-5 };
        const bias = tensorOf(one, randomArray(outputs, 3));
        const gate = f32Source(randomArray(outputs * cols, 4), outputs, cols);
        const up = f32Source(randomArray(outputs * cols, 5), outputs, cols);
        using plain = one.weight([gate], { format });
        using gated = one.weight([gate, up], { format, gated: true });
        const operators: ((backend: CpuBackend, out: Tensor, rowsOfX: Tensor, rows: number) => void)[] = [
          (backend, out, rowsOfX, rows) => backend.linear(out, rowsOfX, plain, rows, { norm, bias }),
          (backend, out, rowsOfX, rows) => backend.linearGated(out, rowsOfX, gated, rows, { norm }),
        ];
        for (const operator of operators) {
          const alone = new Float32Array(most * outputs);
          for (let row = 0; row < most; ++row) {
            const out = poisoned(one, outputs);
            operator(one, out, tensorOf(one, x.host.subarray(row * cols, (row + 1) * cols)), 1);
            alone.set(out.host, row * outputs);
          }
          for (let rows = 1; rows <= most; ++rows) {
            for (const backend of rows % 5 === 0 ? [one, three] : [three]) {
              const out = poisoned(backend, rows * outputs);
              operator(backend, out, x, rows);
              expect(
                sameBits(out.host, alone.subarray(0, rows * outputs)),
                `${rows} rows, ${backend.threads} threads`,
              ).toBe(true);
            }
          }
        }
      },
    );
  });

  it('packs the same weights whatever the threads', () => {
    using one = new CpuBackend({ isa, threads: 1 });
    using three = new CpuBackend({ isa, threads: 3 });
    const [rows, cols] = [300, 520];
    const made = (backend: CpuBackend): Weight =>
      backend.weight([{ type: 'random', rows, cols, seed: 5, std: 0.02 }], { format: 'bf16' });
    using a = made(one);
    using b = made(three);
    const tokens = Int32Array.from({ length: rows }, (_, i) => i);
    const [fromOne, fromThree] = [poisoned(one, rows * cols), poisoned(three, rows * cols)];
    one.embed(fromOne, a, tokens);
    three.embed(fromThree, b, tokens);
    expect(sameBits(fromOne.host, fromThree.host)).toBe(true);
  });
});
