// What a Llama is made of, from TypeScript to the kernels and back.
import { expect, it } from 'vitest';
import {
  addRmsNorm,
  attentionDecode,
  attentionDecodeWorkspace,
  attentionPrefill,
  convert,
  copyRows,
  embed,
  fillNormal,
  kvView,
  linear,
  linearGated,
  mergeAttention,
  rmsNorm,
  rope,
  ropeSplit,
  ropeTable,
  swiglu,
} from '../src/index.js';
import { fromBf16, toBf16 } from './bf16.js';
import { onDevices } from './on-devices.js';
import { relativeError } from './relative-error.js';

onDevices((bench) => {
  it('a layer of a Llama: norm, projections, RoPE, attention in two parts, merge, MLP', () => {
    const { device, stream, normals, f32, bf16, i32, floats } = bench;
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
    const w = Object.fromEntries(Object.entries(weights).map(([key, value]) => [key, round(value)])) as typeof weights;
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
    const { device, stream, normals, f32, bf16 } = bench;
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
    const { device, stream, f32 } = bench;
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
});
