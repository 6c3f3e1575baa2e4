import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { CpuBackend, DisposedError, InvalidArgumentError, MapFileError, mapFile } from '../src/index.js';
import { poisoned, randomArray } from './helpers.js';

const folder = mkdtempSync(join(tmpdir(), 'magicpig-map-'));
afterAll(() => rmSync(folder, { recursive: true }));
const path = join(folder, 'data');
const content = new Uint8Array(randomArray(5000, 1).buffer);
writeFileSync(path, content);

function reasonOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(MapFileError);
    return (error as MapFileError).reason;
  }
  throw new Error('nothing was thrown');
}

/** What a mapping of a file has in memory. */
function residentKilobytes(path: string): number {
  const after = readFileSync('/proc/self/smaps', 'utf8').split(path)[1]!;
  return Number(/^Rss: +(\d+) kB/m.exec(after)![1]);
}

describe('mapFile', () => {
  it('gives the bytes of the file', () => {
    using file = mapFile(path);
    expect(file.size).toBe(content.length);
    expect(Buffer.compare(file.bytes, content)).toBe(0);
    expect(file.bytes).toBe(file.bytes);
    expect(Buffer.compare(file.view(4097, 300), content.subarray(4097, 4397))).toBe(0);
    expect(file.view(file.size, 0).length).toBe(0);
  });

  it('is a source of weights without a copy', () => {
    using file = mapFile(path);
    using backend = new CpuBackend({ threads: 1 });
    using weight = backend.weight([{ type: 'f32', data: file.view(12, 4 * 64), rows: 4, cols: 16 }], { format: 'f32' });
    const out = poisoned(backend, 16);
    backend.embed(out, weight, Int32Array.of(3));
    expect(out.host).toEqual(new Float32Array(content.buffer).slice(3 + 48, 3 + 64));
  });

  it('gives memory back and reads again', () => {
    const large = join(folder, 'large');
    writeFileSync(large, new Uint8Array(2 ** 20).fill(7));
    using file = mapFile(large);
    const sum = () => file.bytes.reduce((total, byte) => total + byte, 0);
    expect(sum()).toBe(7 * 2 ** 20);
    if (process.platform === 'linux') expect(residentKilobytes(large)).toBe(1024);
    file.trim();
    if (process.platform === 'linux') expect(residentKilobytes(large)).toBe(0);
    expect(sum()).toBe(7 * 2 ** 20);
    file[Symbol.dispose]();
    expect(() => file.trim()).toThrow(DisposedError);
  });

  it('empties its views when disposed', () => {
    const file = mapFile(path);
    const views = [file.bytes, file.view(0, 10), file.bytes.subarray(5, 10)];
    file[Symbol.dispose]();
    file[Symbol.dispose]();
    expect(views.map((view) => view.length)).toEqual([0, 0, 0]);
    expect(() => file.bytes).toThrow(DisposedError);
    expect(() => file.view(0, 1)).toThrow(path);
  });

  it('names what is wrong', () => {
    expect(reasonOf(() => mapFile(join(folder, 'missing')))).toBe('ENOENT');
    expect(reasonOf(() => mapFile(folder))).toBe('EISDIR');
    const empty = join(folder, 'empty');
    writeFileSync(empty, 'x');
    truncateSync(empty);
    expect(reasonOf(() => mapFile(empty))).toBe('EMPTY');
    expect(() => mapFile(empty)).toThrow(`cannot map ${empty}: it is empty`);
    expect(() => mapFile('')).toThrow(InvalidArgumentError);
    expect(() => mapFile('a\0b')).toThrow(InvalidArgumentError);
  });

  it('refuses views outside the file', () => {
    using file = mapFile(path);
    expect(reasonOf(() => file.view(file.size - 1, 2))).toBe('ERANGE');
    expect(reasonOf(() => file.view(file.size + 1, 0))).toBe('ERANGE');
    expect(() => file.view(-1, 2)).toThrow(InvalidArgumentError);
    expect(() => file.view(0.5, 2)).toThrow(InvalidArgumentError);
  });
});
