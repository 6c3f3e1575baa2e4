import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  CorruptFileError,
  FileError,
  InvalidArgumentError,
  type KvDtype,
  KvOutOfMemoryError,
  KvStore,
} from '../src/index.js';
import { randomRows, runStep } from './model.js';
import { Random } from './random.js';

const folder = mkdtempSync(join(tmpdir(), 'kv-offload-'));
afterAll(() => rmSync(folder, { recursive: true }));

const SHAPE = { layers: 2, kvHeads: 2, queryHeads: 4, headDim: 24, pageTokens: 16, threads: 1 };

function filled(dtype: KvDtype, tokens: number) {
  const store = new KvStore({ ...SHAPE, dtype });
  // Rows of another sequence, so that the last page holds what this one never wrote.
  const other = store.open();
  runStep(store, [{ sequence: other, tokens: 64 }], randomRows(store, 64, new Random(1), 1000));
  other[Symbol.dispose]();
  const sequence = store.open();
  if (tokens > 0) runStep(store, [{ sequence, tokens }], randomRows(store, tokens, new Random(2)));
  return { store, sequence };
}

function expectSame(actual: Record<string, Uint8Array>, expected: Record<string, Uint8Array>): void {
  expect(Object.keys(actual)).toEqual(Object.keys(expected));
  for (const [name, bytes] of Object.entries(expected)) expect(Buffer.from(actual[name]!).equals(bytes)).toBe(true);
}

describe('snapshots', () => {
  it.each([
    ['bf16', 37],
    ['f16', 16],
    ['f32', 1],
    ['int8', 33],
    ['bf16', 0],
  ] as const)('give a %s sequence of %i tokens back, which goes on as the original does', (dtype, tokens) => {
    const path = join(folder, `${dtype}-${tokens}`);
    const { store, sequence } = filled(dtype, tokens);
    const attachments: Record<string, Uint8Array> = Object.fromEntries([
      ['tables', Uint8Array.from({ length: 1001 }, (_, i) => i)],
      ['__proto__', Uint8Array.of(1)],
      ['nothing', new Uint8Array()],
      ['ключ/2', Uint8Array.from({ length: 5_000_000 }, (_, i) => i * 7)],
    ]);
    store.save(sequence, path, attachments);
    const bytes = readFileSync(path);

    const second = new KvStore({ ...SHAPE, dtype });
    const loaded = second.load(path);
    expectSame(loaded.attachments, attachments);
    expect(loaded.sequence.length).toBe(tokens);
    expect(second.bytes).toBe(second.bytesFor(tokens));
    for (let layer = 0; layer < 2; layer++) {
      for (let head = 0; head < 2; head++) {
        for (const read of ['readKeys', 'readValues'] as const) {
          const expected = store[read](sequence, layer, head, 0, tokens);
          expect(second[read](loaded.sequence, layer, head, 0, tokens)).toEqual(expected);
        }
      }
    }
    const rows = randomRows(store, 20, new Random(3));
    const expected = runStep(store, [{ sequence, tokens: 20 }], rows);
    expect(runStep(second, [{ sequence: loaded.sequence, tokens: 20 }], rows)).toEqual(expected);
    expect(readFileSync(path).equals(bytes)).toBe(true); // appending did not write to the file

    const fork = loaded.sequence.fork();
    loaded.sequence[Symbol.dispose]();
    fork[Symbol.dispose]();
    expect(second.bytes).toBe(0);
    second[Symbol.dispose]();
    expectSame(loaded.attachments, attachments); // they outlive the store
  });

  it('give attachments as private views of the file', () => {
    const { store, sequence } = filled('bf16', 20);
    const path = join(folder, 'views');
    const numbers = Float64Array.of(1.5, -2.25);
    store.save(sequence, path, { odd: Uint8Array.of(7), numbers: new Uint8Array(numbers.buffer) });
    const bytes = readFileSync(path);
    const { odd, numbers: view } = store.load(path).attachments as { odd: Uint8Array; numbers: Uint8Array };
    expect([...new Float64Array(view.buffer, view.byteOffset, 2)]).toEqual([...numbers]);
    odd[0] = 8;
    expect(store.load(path).attachments.odd).toEqual(Uint8Array.of(7));
    expect(readFileSync(path).equals(bytes)).toBe(true);
  });

  it('hold a prefix when a truncated fork is saved', () => {
    const { store, sequence } = filled('f32', 37);
    const path = join(folder, 'prefix');
    using prefix = sequence.fork();
    prefix.truncate(21);
    store.save(prefix, path);
    expect(sequence.length).toBe(37);
    const loaded = store.load(path).sequence;
    expect(loaded.length).toBe(21);
    for (const child of [loaded.fork(), loaded.fork()]) {
      const rows = randomRows(store, 3, new Random(child.length));
      using original = sequence.fork();
      original.truncate(21);
      const expected = runStep(store, [{ sequence: original, tokens: 3 }], rows);
      expect(runStep(store, [{ sequence: child, tokens: 3 }], rows)).toEqual(expected);
    }
    expect(store.readKeys(loaded, 1, 1, 0, 21)).toEqual(store.readKeys(sequence, 1, 1, 0, 21));
  });

  it('survive a process that is killed while it saves', async () => {
    const path = join(mkdtempSync(join(folder, 'killed-')), 'snapshot');
    const { store, sequence } = filled('bf16', 20);
    store.save(sequence, path);
    // Saves without end; says when the first is done.
    const program = `
      import { KvStore } from '@magicpig/kv-offload';
      const store = new KvStore(${JSON.stringify(SHAPE)});
      const sequence = store.open();
      for (let version = 1; ; version = (version % 250) + 1) {
        store.save(sequence, ${JSON.stringify(path)}, { big: new Uint8Array(8_000_000).fill(version) });
        if (version === 1) process.stdout.write('saved');
      }`;
    // Until two kills came in the middle of a save.
    for (let round = 0; readdirSync(dirname(path)).length < 3; round++) {
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], { cwd: import.meta.dirname });
      await once(child.stdout, 'data');
      await new Promise((resolve) => setTimeout(resolve, (3 * round) % 17));
      child.kill('SIGKILL');
      await once(child, 'exit');
      const { big } = store.load(path).attachments as { big: Uint8Array };
      expect(big[0]).toBeGreaterThan(0);
      expect(Buffer.from(big).equals(new Uint8Array(8_000_000).fill(big[0]!))).toBe(true);
    }
  });

  it('are written with no trace of other sequences', () => {
    const { store, sequence } = filled('f32', 5);
    const path = join(folder, 'clean');
    store.save(sequence, path);
    const file = readFileSync(path);
    const floats = new Float32Array(file.buffer, file.byteOffset + 4096, store.bytesFor(5) / 4);
    expect(floats.every((x) => Math.abs(x) < 100)).toBe(true);
    expect(floats.filter((x) => x !== 0).length).toBe(2 * 2 * 2 * 5 * 24);
  });

  it('are replaced whole or not at all', () => {
    const { store, sequence } = filled('bf16', 20);
    const path = join(folder, 'kept');
    store.save(sequence, path, { a: Uint8Array.of(1) });
    store.save(sequence, path, { a: Uint8Array.of(2) });
    expect(store.load(path).attachments).toEqual({ a: Uint8Array.of(2) });
    expect(() => store.save(sequence, join(folder, 'missing', 'x'))).toThrow(FileError);
    expect(() => store.save(sequence, folder)).toThrow(/Could not replace/);
    expect(readdirSync(folder).filter((name) => name.includes('.tmp'))).toEqual([]);
  });

  it('that are damaged anywhere are refused', () => {
    const { store, sequence } = filled('bf16', 37);
    const path = join(folder, 'damaged');
    store.save(sequence, path, { a: new Uint8Array(50), b: new Uint8Array(7) });
    const whole = readFileSync(path);
    const random = new Random(5);
    const before = store.bytes;
    for (let i = 0; i < 60; i++) {
      const bytes = Buffer.from(whole);
      const at = i < 30 ? i * 2 : random.integer(bytes.length);
      bytes[at]! ^= 1 << random.integer(8);
      writeFileSync(path, bytes);
      expect(() => store.load(path), `byte ${at}`).toThrow(); // another shape, or corrupt
      expect(store.bytes).toBe(before);
    }
    for (const length of [0, 1, 100, 4095, 4096, 5000, whole.length - 1]) {
      writeFileSync(path, whole.subarray(0, length));
      expect(() => store.load(path)).toThrow(CorruptFileError);
    }
    writeFileSync(path, Buffer.concat([whole, Buffer.alloc(1)]));
    expect(() => store.load(path)).toThrow(CorruptFileError);
    writeFileSync(path, whole);
    expect(store.load(path).sequence.length).toBe(37);
  });

  it('need a store of their shape with room for them', () => {
    const { store, sequence } = filled('bf16', 37);
    const path = join(folder, 'shape');
    store.save(sequence, path);
    expect(() => new KvStore({ ...SHAPE, layers: 3 }).load(path)).toThrow(InvalidArgumentError);
    expect(() => new KvStore({ ...SHAPE, dtype: 'f16' }).load(path)).toThrow(/load it into a store of that shape/);
    const small = new KvStore({ ...SHAPE, maxBytes: store.bytesFor(37) - 1 });
    expect(() => small.load(path)).toThrow(KvOutOfMemoryError);
    expect(() => store.load(join(folder, 'nowhere'))).toThrow(/Could not open .*No such file/);
    expect(() => new KvStore(SHAPE).save(sequence, path)).toThrow(/not one of this store/);
    for (const bad of ['', 'a\0b', 3 as never]) {
      expect(() => store.save(sequence, bad)).toThrow(InvalidArgumentError);
      expect(() => store.load(bad)).toThrow(/pass a file name/);
    }
    expect(() => store.save(sequence, path, { tables: [1] as never })).toThrow(/attachments.tables is not/);
  });
});
