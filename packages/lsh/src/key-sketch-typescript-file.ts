/** Files of key sketches in TypeScript: docs/format.md. */
import type { EngineSketchFile, EngineSketchOptions, EngineSketchShape } from './key-sketch-engine.js';
import { BLOCK } from './key-sketch-typescript-codes.js';
import type { SketchKeys } from './key-sketch-typescript-query.js';
import { Container, openFile, type Section, writeContainer } from './typescript-engine-container.js';
import { engineError } from './typescript-engine-error.js';

const FILE_KIND = { kind: 'SKCH', version: 1 };
const MAX_HEADS = 2 ** 20;
const MAX_SIZE = 256;
const MAX_BITS = 4;
const MAX_KEYS = 2 ** 32 - 1025;

export function writeSketch(
  { heads, dim, bits, seed, centred }: EngineSketchShape,
  blockBytes: number,
  keys: SketchKeys[],
): Uint8Array {
  const sections: Section[] = [
    { index: 0, kind: 'HEAD', pieces: [BigUint64Array.from([heads, dim, bits, seed, centred ? 1 : 0].map(BigInt))] },
    { index: 0, kind: 'SIZE', pieces: [BigUint64Array.from(keys, ({ size }) => BigInt(size))] },
  ];
  keys.forEach(({ size, codes, factors, centre }, at) => {
    const blocks = Math.ceil(size / BLOCK);
    if (blocks > 0) {
      sections.push({ index: at + 1, kind: 'CODE', pieces: [codes.subarray(0, blocks * blockBytes)] });
      sections.push({ index: at + 1, kind: 'FACT', pieces: [factors.subarray(0, blocks * BLOCK)] });
    }
    if (centre) sections.push({ index: at + 1, kind: 'CENT', pieces: [centre] });
  });
  return writeContainer(FILE_KIND, sections);
}

export function readHeads(
  file: Container,
  { heads, dim, centred }: EngineSketchOptions,
  blockBytes: number,
): SketchKeys[] {
  return Array.from(file.get(0, 'SIZE', heads, BigUint64Array), (big, at) => {
    if (big > MAX_KEYS) throw engineError('CORRUPT_FILE', `A head has ${big} keys.`);
    const size = Number(big);
    const blocks = Math.ceil(size / BLOCK);
    return {
      size,
      codes: file.get(at + 1, 'CODE', blocks * blockBytes, Uint8Array),
      factors: file.get(at + 1, 'FACT', blocks * BLOCK, Uint16Array),
      // A head that was emptied keeps its centre.
      ...(centred && (size > 0 || file.has(at + 1, 'CENT')) && { centre: file.get(at + 1, 'CENT', dim, Float32Array) }),
    };
  });
}

export function openSketch(source: string | Uint8Array): EngineSketchFile {
  const file = new Container(typeof source === 'string' ? openFile(source) : source, FILE_KIND);
  if (typeof source !== 'string') file.verify();
  const header = file.get(0, 'HEAD', 5, BigUint64Array);
  const number = (i: number, name: string, least: number, most: number) => {
    const value = header[i]!;
    if (value < least || value > most) throw engineError('CORRUPT_FILE', `${name} is ${value}.`);
    return Number(value);
  };
  return {
    heads: number(0, 'heads', 1, MAX_HEADS),
    dim: number(1, 'dim', 1, MAX_SIZE),
    bits: number(2, 'bits', 1, MAX_BITS),
    seed: number(3, 'seed', 0, Number.MAX_SAFE_INTEGER),
    centred: number(4, 'centred', 0, 1) === 1,
    file,
  };
}
