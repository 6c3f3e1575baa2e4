// The whole way from TypeScript to the kernels and back: on the CPU emulation everywhere, on the GPU where there is one.
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { SimHashTables } from '@magicpig/lsh';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  add,
  addRmsNorm,
  attentionDecode,
  attentionDecodeWorkspace,
  attentionPrefill,
  availability,
  columnMean,
  convert,
  copyRows,
  Device,
  type DeviceArray,
  embed,
  fillNormal,
  kvView,
  linear,
  linearGated,
  mergeAttention,
  OutOfMemoryError,
  projectionLength,
  rmsNorm,
  rope,
  ropeSplit,
  ropeTable,
  type Stream,
  simhash,
  simhashProjections,
  sketchDraw,
  sketchDrawWorkspace,
  sketchEncode,
  sketchFlips,
  sketchLengths,
  swiglu,
  tableBuild,
  tableBuildWorkspace,
} from '../src/index.js';
import { fromBf16, toBf16 } from './bf16.js';
import { randoms } from './randoms.js';
import { relativeError } from './relative-error.js';

const found = availability();

describe.each([
  ['emulated', true],
  ['CUDA', found.available],
] as const)('%s device', (name, present) => {
  describe.skipIf(!present)(present ? 'present' : `skipped: ${(found as { reason: string }).reason}`, () => {
    let device: Device;
    let stream: Stream;
    const { normals } = randoms(20241016);

    beforeAll(() => {
      device = new Device({ emulate: name === 'emulated' });
      stream = device.stream();
    });
    afterAll(() => device[Symbol.dispose]());

    const f32 = (values: Float32Array) => device.upload('f32', values);
    const bf16 = (values: Float32Array) => device.upload('bf16', toBf16(values));
    const i32 = (values: number[]) => device.upload('i32', Int32Array.from(values));
    const floats = (array: DeviceArray<'bf16'>) => fromBf16(array.read());

    it('describes itself', () => {
      expect(device.properties.name).not.toBe('');
      expect(device.properties.computeCapability).toMatch(/^\d+\.\d$/);
      expect(device.properties.totalMemory).toBeGreaterThan(2 ** 30);
      expect(device.freeMemory).toBeGreaterThan(0);
    });

    it('copies through pinned memory in the background, ordered by events', () => {
      using copies = device.stream();
      using event = device.event();
      const host = device.pinned('f32', 100);
      const back = device.pinned('f32', 100);
      host.host.set(normals(100));
      const x = device.array('f32', 100);
      copies.copy(x, host);
      copies.record(event);
      stream.wait(event);
      add(stream, { x, y: x });
      stream.copy(back, x);
      stream.synchronize();
      expect([...back.host]).toEqual([...host.host].map((value) => value * 2));
    });

    it('copies from memory that was there before, once it is locked', () => {
      const data = normals(5000);
      const x = device.array('f32', 5000);
      using pinned = device.pin('f32', data);
      stream.copy(x, pinned);
      stream.synchronize();
      expect(x.read()).toEqual(data);
    });

    it('replays a captured stretch with the data of the moment', async () => {
      using start = device.event({ timed: true });
      using end = device.event({ timed: true });
      const x = f32(new Float32Array(64).fill(1));
      const y = f32(new Float32Array(64).fill(2));
      using graph = stream.capture(() => {
        add(stream, { x, y });
        add(stream, { x, y });
      });
      expect(x.read()[0]).toBe(1);
      stream.record(start);
      stream.launch(graph);
      stream.launch(graph);
      stream.record(end);
      await end.done();
      expect([...x.read()]).toEqual(Array(64).fill(9));
      expect(end.millisecondsSince(start)).toBeGreaterThanOrEqual(0);
    });

    it('survives running out of memory', () => {
      const before = device.memory.used;
      expect(() => device.array('u8', device.properties.totalMemory)).toThrow(OutOfMemoryError);
      expect(device.memory.used).toBe(before);
      const x = f32(Float32Array.of(1, 2, 3));
      expect([...x.read()]).toEqual([1, 2, 3]);
    });

    it('a layer of a Llama: norm, projections, RoPE, attention in two parts, merge, MLP', () => {
      const [rows, hidden, queryHeads, kvHeads, headDim, ffn] = [5, 64, 4, 2, 16, 96];
      const heads = { queryHeads, kvHeads, headDim };
      const width = (queryHeads + 2 * kvHeads) * headDim;
      const weights = {
        embedding: normals(50 * hidden),
        norm: normals(hidden),
        qkv: normals(width * hidden).map((value) => value / 8),
        out: normals(hidden * queryHeads * headDim).map((value) => value / 8),
        gateUp: normals(2 * ffn * hidden).map((value) => value / 8),
        down: normals(hidden * ffn).map((value) => value / 10),
      };
      const frequencies = Float32Array.from({ length: headDim / 2 }, (_, j) => 10000 ** ((-2 * j) / headDim));
      const tokens = [3, 49, 0, 17, 17];

      // In float64, from the same bf16 weights.
      const round = (values: Float32Array) => fromBf16(toBf16(values));
      const w = Object.fromEntries(
        Object.entries(weights).map(([key, value]) => [key, round(value)]),
      ) as typeof weights;
      const matmul = (x: number[][], weight: Float32Array, outputs: number) =>
        x.map((row) =>
          Array.from({ length: outputs }, (_, o) =>
            row.reduce((sum, value, i) => sum + value * weight[o * row.length + i]!, 0),
          ),
        );
      const normed = (x: number[][]) =>
        x.map((row) => {
          const scale = 1 / Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / hidden + 1e-5);
          return row.map((value, i) => value * scale * weights.norm[i]!);
        });
      let x = tokens.map((token) => [...w.embedding.subarray(token * hidden, (token + 1) * hidden)]);
      const qkv = matmul(normed(x), w.qkv, width).map((row, position) => {
        for (let head = 0; head < queryHeads + kvHeads; ++head) {
          for (let j = 0; j < headDim / 2; ++j) {
            const at = head * headDim + j;
            const [a, b] = [row[at]!, row[at + headDim / 2]!];
            const angle = position * frequencies[j]!;
            row[at] = a * Math.cos(angle) - b * Math.sin(angle);
            row[at + headDim / 2] = b * Math.cos(angle) + a * Math.sin(angle);
          }
        }
        return row;
      });
      const attended = qkv.map((row, position) =>
        Array.from({ length: queryHeads }, (_, head) => {
          const kvHead = Math.floor(head / (queryHeads / kvHeads));
          const keys = qkv.slice(0, position + 1);
          const scores = keys.map((key) => {
            let score = 0;
            for (let i = 0; i < headDim; ++i)
              score += row[head * headDim + i]! * key[(queryHeads + kvHead) * headDim + i]!;
            return Math.exp(score / Math.sqrt(headDim));
          });
          const total = scores.reduce((a, b) => a + b);
          return Array.from({ length: headDim }, (_, i) =>
            keys.reduce(
              (sum, key, j) => sum + (scores[j]! / total) * key[(queryHeads + kvHeads + kvHead) * headDim + i]!,
              0,
            ),
          );
        }).flat(),
      );
      const add2 = (a: number[][], b: number[][]) => a.map((row, r) => row.map((value, i) => value + b[r]![i]!));
      x = add2(x, matmul(attended, w.out, hidden));
      const gated = matmul(normed(x), w.gateUp, 2 * ffn).map((row) =>
        Array.from({ length: ffn }, (_, i) => (row[i]! / (1 + Math.exp(-row[i]!))) * row[ffn + i]!),
      );
      x = add2(x, matmul(gated, w.down, hidden));

      // On the device.
      const dx = device.array('f32', rows * hidden);
      const h = device.array('bf16', rows * hidden);
      const norm = f32(weights.norm);
      embed(stream, {
        out: dx,
        table: bf16(weights.embedding),
        tokens: i32(tokens),
        rows,
        width: hidden,
        vocabulary: 50,
      });
      rmsNorm(stream, { out: h, x: dx, weight: norm, rows, columns: hidden, epsilon: 1e-5 });
      const dqkv = device.array('f32', rows * width);
      linear(stream, { out: dqkv, x: h, weight: bf16(weights.qkv), rows, outputs: width, inputs: hidden });
      const table = device.array('f32', rows * headDim);
      const positions = i32([0, 1, 2, 3, 4]);
      ropeTable(stream, { table, positions, inverseFrequencies: f32(frequencies), rows, headDim });
      const q = device.array('bf16', rows * queryHeads * headDim);
      const k = device.array('bf16', rows * kvHeads * headDim);
      const v = device.array('bf16', rows * kvHeads * headDim);
      ropeSplit(stream, { qkv: dqkv, table, q, k, v, rows, ...heads });
      rope(stream, { x: dqkv, table, rows, stride: width, heads: queryHeads + kvHeads, headDim });
      expect(relativeError(dqkv.read(), qkv.flat())).toBeLessThan(1e-2);

      const whole = device.array('bf16', q.length);
      attentionPrefill(stream, { out: whole, q, kv: kvView(k, v, heads), queries: rows, keys: rows, ...heads });
      expect(relativeError(floats(whole), attended.flat())).toBeLessThan(2e-2);
      // The same in two parts: keys 0 and 1, then the others.
      const parts = [0, 2].map((first) => {
        const out = device.array('f32', q.length);
        const logSumExp = device.array('f32', rows * queryHeads);
        const [pk, pv] = [k, v].map((array) => array.view(first * kvHeads * headDim));
        const keys = first === 0 ? 2 : 3;
        const at = { queryPosition: 0, keyPosition: first };
        attentionPrefill(stream, {
          out,
          logSumExp,
          q,
          kv: kvView(pk!, pv!, heads),
          queries: rows,
          keys,
          ...at,
          ...heads,
        });
        return { out, logSumExp };
      });
      const merged = device.array('bf16', q.length);
      const [a, b] = parts as [(typeof parts)[0], (typeof parts)[0]];
      const mergedRows = rows * queryHeads;
      mergeAttention(stream, {
        out: merged,
        a: a.out,
        lseA: a.logSumExp,
        b: b.out,
        lseB: b.logSumExp,
        rows: mergedRows,
        headDim,
      });
      expect(relativeError(floats(merged), attended.flat())).toBeLessThan(2e-2);
      // And the last row as a decode step, over splits.
      const decoded = device.array('f32', queryHeads * headDim);
      const decodeSizes = { sequences: 1, maxKeys: 70, split: 64, ...heads };
      const [room, roomV] = [k, v].map((array) => {
        const larger = device.array('bf16', 70 * kvHeads * headDim);
        stream.copy(larger, array);
        return larger;
      });
      attentionDecode(stream, {
        out: decoded,
        q: q.view(4 * queryHeads * headDim),
        kv: kvView(room!, roomV!, heads),
        lengths: i32([rows]),
        workspace: device.array('u8', attentionDecodeWorkspace(stream, decodeSizes)),
        ...decodeSizes,
      });
      expect(relativeError(decoded.read(), attended[4]!)).toBeLessThan(2e-2);

      const outWeight = bf16(weights.out);
      const projected = device.array('f32', rows * hidden);
      linear(stream, {
        out: projected,
        x: merged,
        weight: outWeight,
        rows,
        outputs: hidden,
        inputs: queryHeads * headDim,
      });
      addRmsNorm(stream, { out: h, x: dx, y: projected, weight: norm, rows, columns: hidden, epsilon: 1e-5 });
      const gateUp = bf16(weights.gateUp);
      const dGated = device.array('bf16', rows * ffn);
      linearGated(stream, { out: dGated, x: h, weight: gateUp, rows, width: ffn, inputs: hidden });
      expect(relativeError(floats(dGated), gated.flat())).toBeLessThan(3e-2);
      const both = device.array('f32', rows * 2 * ffn);
      linear(stream, { out: both, x: h, weight: gateUp, rows, outputs: 2 * ffn, inputs: hidden });
      swiglu(stream, { out: dGated, gateUp: both, rows, width: ffn });
      linear(stream, {
        out: dx,
        x: dGated,
        weight: bf16(weights.down),
        rows,
        outputs: hidden,
        inputs: ffn,
        accumulate: true,
      });
      expect(relativeError(dx.read(), x.flat())).toBeLessThan(1e-2);
      const last = device.array('f32', hidden);
      copyRows(stream, { out: last, x: dx, indices: i32([4]), rows: 1, width: hidden });
      expect([...last.read()]).toEqual([...dx.read().subarray(4 * hidden)]);
    });

    it('products of many rows', () => {
      const [rows, outputs, inputs] = [40, 36, 72];
      const [x, weight, bias] = [normals(rows * inputs), normals(outputs * inputs), normals(outputs)];
      const reference: number[] = [];
      const [rx, rw] = [fromBf16(toBf16(x)), fromBf16(toBf16(weight))];
      for (let r = 0; r < rows; ++r) {
        for (let o = 0; o < outputs; ++o) {
          let sum = bias[o]!;
          for (let i = 0; i < inputs; ++i) sum += rx[r * inputs + i]! * rw[o * inputs + i]!;
          reference.push(sum);
        }
      }
      const out = device.array('f32', rows * outputs);
      for (const use of ['any', 'own'] as const) {
        stream.fill(out, 0xff);
        linear(stream, { out, x: bf16(x), weight: bf16(weight), bias: f32(bias), rows, outputs, inputs, use });
        expect(relativeError(out.read(), reference)).toBeLessThan(1e-5);
      }
    });

    it('random weights are normal, and the same for the same seed', () => {
      const [a, b, c] = [1, 1, 2].map((seed) => {
        const out = device.array('f32', 4000);
        fillNormal(stream, { out, seed, mean: 3, deviation: 0.5 });
        return out.read();
      });
      expect(a).toEqual(b);
      expect(a).not.toEqual(c);
      const mean = a!.reduce((sum, value) => sum + value, 0) / 4000;
      const deviation = Math.sqrt(a!.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 4000);
      expect(Math.abs(mean - 3)).toBeLessThan((4 * 0.5) / Math.sqrt(4000));
      expect(Math.abs(deviation - 0.5)).toBeLessThan((4 * 0.5) / Math.sqrt(8000));
      const half = device.array('bf16', 4000);
      convert(stream, { out: half, x: f32(a!) });
      expect(half.read()).toEqual(toBf16(a!));
    });

    // The selection of @magicpig/lsh depends on every bit of every code of a key and of a query: equal candidates for many
    // queries mean equal projections, centres, rounded vectors and codes.
    it.each([
      { dim: 64, bits: 8, tables: 40, keys: 300, seed: 1 },
      { dim: 128, bits: 10, tables: 150, keys: 200, seed: 2 ** 40 + 7 },
      { dim: 80, bits: 13, tables: 20, keys: 150, seed: 3 },
    ])(
      'hashes and builds tables as @magicpig/lsh does: $dim dimensions, ($bits, $tables)',
      ({ keys, seed, ...sizes }) => {
        const { dim, tables } = sizes;
        // Keys in a narrow cone, as a transformer's are, so that the centre matters.
        const x = normals(keys * dim).map((value, i) => value * (0.5 + (i % 7)) + 2 * Math.sin(i % dim));
        using index = new SimHashTables({ heads: 1, ...sizes, seed, threads: 1 });
        index.add(0, x);

        const dx = f32(x);
        const centre = device.array('f32', dim);
        columnMean(stream, { mean: centre, x: dx, rows: keys, dim });
        expect(centre.read()).toEqual(index.centre(0));
        const projections = device.array('i8', projectionLength(sizes));
        simhashProjections(stream, { out: projections, ...sizes, seed });
        const codes = device.array('u16', keys * tables);
        const inverseNorms = device.array('f32', keys);
        simhash(stream, { codes, inverseNorms, x: dx, rows: keys, centre, projections, layout: 'tables', ...sizes });
        const buckets = 2 ** sizes.bits;
        const starts = device.array('u16', tables * (buckets + 1));
        const ids = device.array('u16', tables * keys);
        const workspace = device.array('u8', tableBuildWorkspace(stream, { keys, ...sizes }));
        tableBuild(stream, { starts, ids, codes, keys, workspace, ...sizes });

        const [hostStarts, hostIds, norms] = [starts.read(), ids.read(), inverseNorms.read()];
        const mean = index.centre(0);
        for (const row of [0, 1, keys - 1]) {
          const norm = Math.hypot(...x.subarray(row * dim, (row + 1) * dim).map((value, i) => value - mean[i]!));
          expect(norms[row]! * norm).toBeCloseTo(1, 5);
        }

        const queries = 24;
        // Near a key each, so that there are candidates.
        const q = normals(queries * dim).map((noise, i) => {
          const row = (Math.floor(i / dim) * 5) % keys;
          return x[row * dim + (i % dim)]! - mean[i % dim]! + noise / 2;
        });
        const queryCodes = device.array('u16', queries * tables);
        simhash(stream, { codes: queryCodes, x: f32(q), rows: queries, projections, ...sizes });
        const hostCodes = queryCodes.read();
        let candidates = 0;
        for (let query = 0; query < queries; ++query) {
          const collisions = new Uint16Array(keys);
          for (let t = 0; t < tables; ++t) {
            const bucket = t * (buckets + 1) + hostCodes[query * tables + t]!;
            for (let i = hostStarts[bucket]!; i < hostStarts[bucket + 1]!; ++i) ++collisions[hostIds[t * keys + i]!]!;
          }
          const chosen = [...collisions.keys()].filter((id) => collisions[id]! >= 2);
          expect(chosen).toEqual([...index.query(0, q.subarray(query * dim, (query + 1) * dim))]);
          candidates += chosen.length;
        }
        expect(candidates).toBeGreaterThan(20);
      },
    );

    it('draws keys by their sketches: unbiased sums, the budget met, the same draws again', () => {
      const [keys, dim, steps, budget] = [400, 48, 60, 50];
      const sizes = { dim, bits: 3, kvHeads: 1, capacity: keys, queryHeads: 2 };
      const { codes: codeLength, factors: factorLength, flips: flipLength } = sketchLengths(sizes);
      const [x, q] = [normals(keys * dim), normals(2 * dim)];
      const [codes, factors] = [device.array('i32', codeLength), device.array('u16', factorLength)];
      const flips = device.array('i32', flipLength);
      const centres = device.array('f32', dim);
      columnMean(stream, { mean: centres, x: f32(x), rows: keys, dim });
      sketchFlips(stream, { flips, ...sizes, seed: 5 });
      sketchEncode(stream, { codes, factors, x: f32(x), rows: keys, centre: centres, flips, kvHead: 0, ...sizes });
      const [ids, minusLog] = [device.array('i32', 2 * keys), device.array('f32', 2 * keys)];
      const counts = device.array('i32', 2);
      const workspace = device.array('u8', sketchDrawWorkspace(stream, sizes));
      const dq = f32(q);
      const draw = (step: number) => {
        const arrays = { ids, minusLog, counts, codes, factors, flips, q: dq, centres, workspace };
        sketchDraw(stream, { ...arrays, ...sizes, keys, room: keys, budget, layer: 3, step });
        const count = counts.read()[1]!;
        return {
          ids: [...ids.read().subarray(keys, keys + count)],
          logs: minusLog.read().subarray(keys, keys + count),
        };
      };
      const weights = Array.from({ length: keys }, (_, key) => {
        let score = 0;
        for (let i = 0; i < dim; ++i) score += x[key * dim + i]! * q[dim + i]!;
        return Math.exp(score / Math.sqrt(dim));
      });
      const total = weights.reduce((a, b) => a + b);
      const estimates: number[] = [];
      let drawn = 0;
      for (let step = 0; step < steps; ++step) {
        const sample = draw(step);
        expect(sample.ids.every((id, i) => i === 0 || id > sample.ids[i - 1]!)).toBe(true);
        drawn += sample.ids.length / steps;
        estimates.push(sample.ids.reduce((sum, id, i) => sum + weights[id]! * Math.exp(sample.logs[i]!), 0) / total);
      }
      const mean = estimates.reduce((a, b) => a + b) / steps;
      const error = Math.sqrt(estimates.reduce((sum, value) => sum + (value - mean) ** 2, 0) / steps / steps);
      expect(Math.abs(mean - 1)).toBeLessThan(5 * error);
      expect(Math.abs(drawn - budget)).toBeLessThan(6);
      expect(draw(7).ids).toEqual(draw(7).ids);
      expect(draw(7).ids).not.toEqual(draw(8).ids);
    });

    it('counts vectors that are not finite', () => {
      const sizes = { dim: 8, bits: 4, tables: 3 };
      const x = normals(5 * 8);
      x[8] = Number.NaN;
      x[31] = Number.POSITIVE_INFINITY;
      const projections = device.array('i8', projectionLength(sizes));
      simhashProjections(stream, { out: projections, ...sizes });
      const codes = device.array('u16', 15);
      const nonFinite = i32([0]);
      simhash(stream, { codes, nonFinite, x: f32(x), rows: 5, projections, ...sizes });
      expect([...nonFinite.read()]).toEqual([2]);
      expect([...codes.read().subarray(3, 6)]).toEqual([0, 0, 0]);
    });
  });
});

describe('a thread that ends without disposing', () => {
  it('gives its memory back', async () => {
    const free = () => {
      using device = new Device({ emulate: true });
      return device.freeMemory;
    };
    const before = free();
    const addon = fileURLToPath(new URL('../build/Release/magicpig_cuda_kernels_emulated.node', import.meta.url));
    const code = `
      const native = require(${JSON.stringify(addon)});
      native.createStream();
      native.createEvent(false);
      native.allocatePinned(1000);
      require('node:worker_threads').parentPort.postMessage(native.allocate(2 ** 20).status);
      setInterval(() => {}, 1000);`;
    const worker = new Worker(code, { eval: true });
    expect(await new Promise((resolve) => worker.once('message', resolve))).toBe(0);
    expect(free()).toBe(before - 2 ** 20);
    await worker.terminate();
    expect(free()).toBe(before);
  });
});

describe('failures of the emulated device at every call', () => {
  it('surface as typed errors and leak nothing', async () => {
    const { emulatedAddon } = await import('../src/availability.js');
    const addon = emulatedAddon();
    if (!('native' in addon)) throw new Error(addon.reason);
    const { native } = addon;
    const work = () => {
      using device = new Device({ emulate: true });
      using stream = device.stream();
      using event = device.event();
      const pinned = device.pinned('f32', 64);
      const x = device.upload('f32', new Float32Array(64).fill(1));
      stream.copy(pinned, x);
      using graph = stream.capture(() => add(stream, { x, y: x }));
      stream.launch(graph);
      stream.record(event);
      event.synchronize();
      return x.read()[0];
    };
    const free = () => {
      using device = new Device({ emulate: true });
      return device.freeMemory;
    };
    const before = free();
    let failing = 0;
    for (;;) {
      native.emulatorFailCall!(++failing, 1);
      try {
        expect(work()).toBe(2);
        native.emulatorFailCall!(0, 0);
        break; // more calls than the work makes
      } catch (error) {
        native.emulatorFailCall!(0, 0);
        expect(['CUDA_ERROR', 'UNAVAILABLE']).toContain((error as { code: string }).code);
      }
      expect(free()).toBe(before);
    }
    expect(failing).toBeGreaterThan(12);
  });
});
