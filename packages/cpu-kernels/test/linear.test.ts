import { describe, expect, it } from 'vitest';
import { CpuBackend, type LinearOptions, type WeightFormat } from '../src/index.js';
import {
  expectWithin,
  f32Source,
  formats,
  paths,
  poisoned,
  product,
  randomArray,
  rmsNorm,
  tensorOf,
  toBf16,
} from './helpers.js';

// One rounding per multiplication and addition, in sums of up to a few thousand terms of random sign.
const FLOAT_ERROR = 2e-6;
// A normalised input may round to the other bfloat16 neighbour than in the reference.
const NORM_BF16_ERROR = 4e-4;

/** What the format makes of a value. */
const rounding = (format: WeightFormat) => (format === 'bf16' ? toBf16 : Math.fround);

// [rows, cols, outputs]: rows around the tiles' sizes, cols with every remainder of the vectors and beyond one block of
// columns (2048), outputs around the panels' width.
const shapes: [number, number, number][] = [
  [1, 8, 1],
  [1, 576, 100],
  [2, 16, 31],
  [3, 24, 32],
  [4, 80, 33],
  [5, 88, 64],
  [7, 160, 65],
  [11, 240, 7],
  [12, 40, 96],
  [13, 48, 45],
  [25, 56, 50],
  [40, 104, 130],
  [1, 2056, 40],
  [14, 4120, 35],
];

describe.each(paths)('%s', (isa) => {
  describe.each(formats)('linear, %s', (format) => {
    const round = rounding(format);

    it.each(shapes)('[%i, %i] x [%i] matches double precision', (rows, cols, outputs) => {
      using backend = new CpuBackend({ isa, threads: 2 });
      const x = randomArray(rows * cols, 1);
      const w = randomArray(outputs * cols, 2);
      using weight = backend.weight([f32Source(w, outputs, cols)], { format });
      const tail = 5; // elements after the result must stay as they are
      const out = poisoned(backend, rows * outputs + tail);
      backend.linear(out, tensorOf(backend, x), weight, rows);
      const { sums, sizes } = product(x.map(round), w.map(round), rows, outputs, cols);
      for (let i = 0; i < sums.length; ++i) {
        expectWithin(out.host[i]!, sums[i]!, FLOAT_ERROR * sizes[i]!);
      }
      for (let i = 0; i < tail; ++i) expect(out.host[rows * outputs + i]).toBeNaN();
    });

    it('fuses norm, bias and accumulation', () => {
      const [rows, cols, outputs, epsilon] = [14, 104, 37, 1e-5];
      using backend = new CpuBackend({ isa, threads: 2 });
      const x = randomArray(rows * cols, 3);
      const w = randomArray(outputs * cols, 4);
      const norm = randomArray(cols, 5);
      const bias = randomArray(outputs, 6);
      const before = randomArray(rows * outputs, 7);
      using weight = backend.weight([f32Source(w, outputs, cols)], { format });
      const normWeight = tensorOf(backend, norm);
      const normed = rmsNorm(x, norm, rows, epsilon);
      for (const withNorm of [false, true]) {
        for (const withBias of [false, true]) {
          for (const accumulate of [false, true]) {
            const options: LinearOptions = { accumulate };
            if (withNorm) options.norm = { weight: normWeight, epsilon };
            if (withBias) options.bias = tensorOf(backend, bias);
            const out = accumulate ? tensorOf(backend, before) : poisoned(backend, rows * outputs);
            backend.linear(out, tensorOf(backend, x), weight, rows, options);
            const { sums, sizes } = product(
              Array.from(withNorm ? normed : x, round),
              w.map(round),
              rows,
              outputs,
              cols,
            );
            for (let i = 0; i < sums.length; ++i) {
              const expected = sums[i]! + (withBias ? bias[i % outputs]! : 0) + (accumulate ? before[i]! : 0);
              const share = withNorm && format === 'bf16' ? NORM_BF16_ERROR : FLOAT_ERROR;
              expectWithin(out.host[i]!, expected, share * (sizes[i]! + 2));
            }
          }
        }
      }
    });

    it.each([
      [1, 64, 16],
      [9, 80, 17],
      [26, 24, 53],
      [3, 2056, 20],
    ])('SwiGLU [%i, %i] x [%i] matches double precision', (rows, cols, outputs) => {
      using backend = new CpuBackend({ isa, threads: 2 });
      const x = randomArray(rows * cols, 8);
      // Gates from -40 to 40 or so: both tails of the sigmoid.
      const gate = randomArray(outputs * cols, 9).map((value) => value * (60 / Math.sqrt(cols)));
      const up = randomArray(outputs * cols, 10);
      using weight = backend.weight([f32Source(gate, outputs, cols), f32Source(up, outputs, cols)], {
        format,
        gated: true,
      });
      expect(weight.rows).toBe(2 * outputs);
      const out = poisoned(backend, rows * outputs);
      backend.linearGated(out, tensorOf(backend, x), weight, rows);
      const inputs = x.map(round);
      const g = product(inputs, gate.map(round), rows, outputs, cols);
      const u = product(inputs, up.map(round), rows, outputs, cols);
      for (let i = 0; i < g.sums.length; ++i) {
        const silu = g.sums[i]! / (1 + Math.exp(-g.sums[i]!));
        // |silu'| <= 1.1
        const size = 1.1 * g.sizes[i]! * Math.abs(u.sums[i]!) + Math.abs(silu) * u.sizes[i]!;
        expectWithin(out.host[i]!, silu * u.sums[i]!, FLOAT_ERROR * size + 1e-30);
      }
    });

    it('SwiGLU normalises first when asked', () => {
      const [rows, cols, outputs, epsilon] = [5, 72, 40, 1e-6];
      using backend = new CpuBackend({ isa, threads: 1 });
      const x = randomArray(rows * cols, 11);
      const norm = randomArray(cols, 12);
      const sources = [13, 14].map((seed) => f32Source(randomArray(outputs * cols, seed), outputs, cols));
      using weight = backend.weight(sources, { format, gated: true });
      const out = poisoned(backend, rows * outputs);
      backend.linearGated(out, tensorOf(backend, x), weight, rows, {
        norm: { weight: tensorOf(backend, norm), epsilon },
      });
      // The same as normalising outside; the norm itself is tested with linear.
      const outside = poisoned(backend, rows * outputs);
      const normed = tensorOf(backend, Array.from(rmsNorm(x, norm, rows, epsilon), Math.fround));
      backend.linearGated(outside, normed, weight, rows);
      for (let i = 0; i < rows * outputs; ++i) {
        const size = Math.abs(outside.host[i]!) + 1;
        expectWithin(out.host[i]!, outside.host[i]!, (format === 'bf16' ? 3e-2 : 1e-5) * size);
      }
    });
  });
});
