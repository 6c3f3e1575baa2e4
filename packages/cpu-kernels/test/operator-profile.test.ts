import { describe, expect, it } from 'vitest';
import { CpuBackend, InvalidArgumentError, OperatorProfile } from '../src/index.js';
import { f32Source, randomArray } from './helpers.js';

describe('OperatorProfile', () => {
  it('collects what a backend does while it is set', () => {
    using backend = new CpuBackend({ threads: 1 });
    const [rows, outputs, cols] = [3, 20, 64];
    const source = f32Source(randomArray(outputs * cols, 1), outputs, cols);
    using plain = backend.weight([source], { format: 'q8' });
    using gated = backend.weight([source, source], { format: 'bf16', gated: true });
    using x = backend.tensor(rows * cols);
    using out = backend.tensor(rows * cols);
    const run = () => {
      backend.linear(out, x, plain, rows);
      backend.linear(out, x, plain, 1, { accumulate: true });
      backend.linearGated(out, x, gated, rows);
      backend.embed(x, plain, Int32Array.of(1, 2));
      backend.ropeTable(x, Int32Array.of(1, 2), new Float32Array(8), 1);
      backend.rope(out, x, { rows: 2, stride: 16, heads: 1, headDim: 16 });
      backend.copyRows(out, x, Int32Array.of(0), 64);
    };
    run();
    const profile = new OperatorProfile();
    backend.profile = profile;
    run();
    backend.profile = undefined;
    run();

    const entries = Object.fromEntries(profile.entries().map((entry) => [entry.operator, entry]));
    expect(Object.keys(entries).sort()).toEqual(['copyRows', 'embed', 'linear', 'linearGated', 'rope', 'ropeTable']);
    expect(entries.linear).toMatchObject({ detail: '[20, 64] q8', calls: 2, rows: 4, format: 'q8' });
    expect(entries.linear!.operations).toBe(2 * 4 * outputs * cols);
    expect(entries.linear!.bytes).toBe(2 * plain.bytes + 4 * 4 * (cols + outputs) + 4 * outputs);
    expect(entries.linearGated).toMatchObject({ calls: 1, operations: 2 * rows * 2 * outputs * cols, format: 'bf16' });
    for (const { seconds } of profile.entries()) expect(seconds).toBeGreaterThan(0);
  });

  it('prints a table, longest first, others’ entries among them', () => {
    const profile = new OperatorProfile();
    profile.record({ operator: 'rope', detail: '', rows: 1, seconds: 0.001, bytes: 1e6, operations: 0 });
    profile.record({ operator: 'attend', detail: 'dense', rows: 1, seconds: 0.003, bytes: 6e7, operations: 3e8 });
    profile.record({
      operator: 'linear',
      detail: '[8, 8] q8',
      rows: 1,
      seconds: 0.0005,
      bytes: 1,
      operations: 1e8,
      format: 'q8',
    });
    const lines = profile.table().split('\n');
    expect(lines).toHaveLength(4);
    expect(lines[1]).toMatch(/^attend dense +█+ +66\.7% +1 +3\.00 +20\.0 +100\.0$/);
    expect(lines[2]).toMatch(/^rope /);
    const operations = { f32: 1e11, bf16: 2e11, q8: 4e11, q4: 4e11 };
    const shares = profile.table({ readBandwidth: 4e10, operations }).split('\n');
    expect(shares[1]).toMatch(/20\.0 +50% +100\.0$/);
    expect(shares[3]).toMatch(/200\.0 +50%$/);
    profile.clear();
    expect(profile.entries()).toEqual([]);
    expect(profile.table().split('\n')).toHaveLength(1);
  });

  it('refuses what cannot be', () => {
    const call = { operator: 'rope', detail: '', rows: 1, seconds: -1, bytes: 0, operations: 0 };
    expect(() => new OperatorProfile().record(call)).toThrow(InvalidArgumentError);
  });
});

describe('ceilings', () => {
  it('are plausible, and those of quantised formats are the same', () => {
    using backend = new CpuBackend({ threads: 1, isa: 'portable' });
    const { readBandwidth, operations } = backend.ceilings();
    expect(readBandwidth).toBeGreaterThan(1e8);
    expect(operations.f32).toBeGreaterThan(1e8);
    expect(operations.q8).toBe(operations.q4);
  });
});
