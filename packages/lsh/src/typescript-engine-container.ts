/** Files of sections in TypeScript: native/container.h, docs/format.md. */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs';
import { endianness } from 'node:os';
import { dirname } from 'node:path';
import { crc32 } from 'node:zlib';
import { engineError } from './typescript-engine-error.js';

const MAGIC = Uint8Array.of(0x89, 0x4d, 0x50, 0x49, 0x47, 0x0d, 0x0a, 0x0a); // \x89MPIG\r\n\n
const VERSION = 1;
const HEADER = 64;
const ENTRY = 32;
const ALIGNMENT = 64;

export interface Section {
  index: number;
  /** Four letters. */
  kind: string;
  /** The contents, one piece behind the other. */
  pieces: ArrayBufferView[];
}

export interface ContainerKind {
  kind: string;
  version: number;
}

/** A file of these sections, by index and then by kind as a number. */
export function writeContainer({ kind, version }: ContainerKind, unordered: Section[]): Uint8Array {
  requireLittleEndian();
  const sections = [...unordered].sort((a, b) => a.index - b.index || fourLetters(a.kind) - fourLetters(b.kind));
  const contents = sections.map(({ pieces }) => pieces.map(bytesOf));
  const tableEnd = HEADER + ENTRY * sections.length;
  let end = tableEnd;
  const places = contents.map((pieces) => {
    const offset = align(end);
    const bytes = pieces.reduce((sum, piece) => sum + piece.length, 0);
    end = offset + bytes;
    return { offset, bytes };
  });
  const file = new Uint8Array(end);
  const view = new DataView(file.buffer);
  sections.forEach((section, s) => {
    const { offset, bytes } = places[s]!;
    let at = offset;
    for (const piece of contents[s]!) {
      file.set(piece, at);
      at += piece.length;
    }
    const entry = HEADER + ENTRY * s;
    view.setUint32(entry, section.index, true);
    view.setUint32(entry + 4, fourLetters(section.kind), true);
    view.setBigUint64(entry + 8, BigInt(offset), true);
    view.setBigUint64(entry + 16, BigInt(bytes), true);
    view.setUint32(entry + 24, crc32(file.subarray(offset, at)), true);
  });
  file.set(MAGIC);
  view.setUint32(8, VERSION, true);
  view.setUint32(12, fourLetters(kind), true);
  view.setUint32(16, version, true);
  view.setUint32(20, sections.length, true);
  view.setBigUint64(24, BigInt(end), true);
  view.setUint32(32, crc32(file.subarray(HEADER, tableEnd)), true);
  view.setUint32(60, crc32(file.subarray(0, 60)), true);
  return file;
}

let saved = 0;

/** Writes a temporary file beside `path` and renames it: whoever opens `path` sees the old file or the whole new one. Throws IO. */
export function saveFile(path: string, bytes: Uint8Array): void {
  const temporary = `${path}.${process.pid}-${saved++}.tmp`;
  try {
    const file = openSync(temporary, 'wx');
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at, Math.min(bytes.length - at, 2 ** 30));
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
  } catch (cause) {
    rmSync(temporary, { force: true });
    throw engineError('IO', `Cannot write ${path}: ${(cause as Error).message}.`, cause);
  }
  // The new name is safe once its directory is; not every system can flush one, and the file is whole in any case.
  try {
    const folder = openSync(dirname(path), 'r');
    fsyncSync(folder);
    closeSync(folder);
  } catch {}
}

/** The bytes of a file. Throws IO, CORRUPT_FILE. */
export function openFile(path: string): Uint8Array {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw engineError('IO', `Cannot read ${path}: ${(cause as Error).message}.`, cause);
  }
  if (bytes.length === 0) throw corrupt(`${path} is empty.`);
  return bytes;
}

/** An open file, whose header and section table are sound. */
export class Container {
  readonly #sections = new Map<string, Uint8Array>();
  readonly #crcs = new Map<string, number>();
  readonly #gaps: Uint8Array[] = [];

  /** Throws CORRUPT_FILE. */
  constructor(bytes: Uint8Array, expected: ContainerKind) {
    requireLittleEndian();
    if (bytes.length < HEADER) throw corrupt('The file is shorter than a header.');
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (!MAGIC.every((byte, i) => bytes[i] === byte)) throw corrupt('This is no file of @magicpig/lsh.');
    if (view.getUint32(60, true) !== crc32(bytes.subarray(0, 60))) throw corrupt("The file's header is damaged.");
    const version = view.getUint32(8, true);
    if (version !== VERSION) {
      throw corrupt(`The file has format version ${version}; this release reads version ${VERSION}.`);
    }
    const kind = view.getUint32(12, true);
    if (kind !== fourLetters(expected.kind)) {
      throw corrupt(`The file holds something else: ${letters(kind)}, not ${expected.kind}.`);
    }
    const kindVersion = view.getUint32(16, true);
    if (kindVersion !== expected.version) {
      throw corrupt(`The file's contents have version ${kindVersion}; this release reads version ${expected.version}.`);
    }
    const size = view.getBigUint64(24, true);
    if (size !== BigInt(bytes.length)) {
      throw corrupt(`The file has ${bytes.length} bytes and should have ${size}.`);
    }
    if (bytes.subarray(36, 60).some((byte) => byte !== 0)) throw corrupt("The file's header has unknown fields.");
    const sections = view.getUint32(20, true);
    const tableEnd = HEADER + ENTRY * sections;
    if (tableEnd > bytes.length) throw corrupt("The file's section table does not fit.");
    if (view.getUint32(32, true) !== crc32(bytes.subarray(HEADER, tableEnd))) {
      throw corrupt("The file's section table is damaged.");
    }
    let end = tableEnd;
    let last = -1n;
    for (let s = 0; s < sections; s++) {
      const entry = HEADER + ENTRY * s;
      const index = view.getUint32(entry, true);
      const sectionKind = view.getUint32(entry + 4, true);
      const offset = view.getBigUint64(entry + 8, true);
      const length = view.getBigUint64(entry + 16, true);
      const order = (BigInt(index) << 32n) | BigInt(sectionKind);
      const fits = offset === BigInt(align(end)) && offset + length <= BigInt(bytes.length);
      if (order <= last || view.getUint32(entry + 28, true) !== 0 || !fits) {
        throw corrupt(`The file's section ${s} is out of place.`);
      }
      last = order;
      const name = `${letters(sectionKind)} ${index}`;
      this.#gaps.push(bytes.subarray(end, Number(offset)));
      end = Number(offset + length);
      this.#sections.set(name, bytes.subarray(Number(offset), end));
      this.#crcs.set(name, view.getUint32(entry + 24, true));
    }
    if (end !== bytes.length) throw corrupt('The file does not end with its last section.');
  }

  has(index: number, kind: string): boolean {
    return this.#sections.has(`${kind} ${index}`);
  }

  /** A copy of section (index, kind), which must have exactly `length` elements; a missing one has none. Throws CORRUPT_FILE. */
  get<T extends ArrayBufferView>(index: number, kind: string, length: number, type: ArrayType<T>): T {
    const name = `${kind} ${index}`;
    const section = this.#sections.get(name) ?? new Uint8Array(0);
    if (section.length !== length * type.BYTES_PER_ELEMENT) {
      throw corrupt(`The file's section ${name} has a wrong size.`);
    }
    return new type(new Uint8Array(section).buffer); // slice() of a Buffer would not copy
  }

  /** Checks the contents of all sections, and the zeros between them. Throws CORRUPT_FILE. */
  verify(): void {
    let s = 0;
    for (const [name, section] of this.#sections) {
      if (this.#gaps[s++]!.some((byte) => byte !== 0) || crc32(section) !== this.#crcs.get(name)) {
        throw corrupt(`The file's section ${name} is damaged.`);
      }
    }
  }
}

interface ArrayType<T> {
  new (buffer: ArrayBufferLike): T;
  BYTES_PER_ELEMENT: number;
}

function bytesOf(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

function align(n: number): number {
  return Math.ceil(n / ALIGNMENT) * ALIGNMENT;
}

/** Four letters as a number, the first in the lowest byte. */
function fourLetters(text: string): number {
  return [...text].reduceRight((code, letter) => code * 256 + letter.charCodeAt(0), 0);
}

function letters(code: number): string {
  return String.fromCharCode(code & 0xff, (code >>> 8) & 0xff, (code >>> 16) & 0xff, code >>> 24);
}

export function corrupt(message: string): Error {
  return engineError('CORRUPT_FILE', message);
}

function requireLittleEndian(): void {
  if (endianness() !== 'LE') {
    throw engineError('UNSUPPORTED', 'Files are little-endian, and this machine is not.');
  }
}
