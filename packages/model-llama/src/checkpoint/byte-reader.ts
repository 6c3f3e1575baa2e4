import { CheckpointError } from '../errors.js';

/**
 * Reads little-endian values of a file held in memory, front to back. Every read is checked against the file's end
 * before anything is allocated, so a truncated or lying header ends in a {@link CheckpointError} with the offset.
 */
export class ByteReader {
  readonly #buffer: Buffer;
  readonly #file: string;
  #offset: number;

  constructor(bytes: Uint8Array, file: string, offset = 0) {
    this.#buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#file = file;
    this.#offset = offset;
  }

  get offset(): number {
    return this.#offset;
  }

  get remaining(): number {
    return this.#buffer.length - this.#offset;
  }

  u8(): number {
    return this.#buffer.readUInt8(this.#advance(1));
  }

  i8(): number {
    return this.#buffer.readInt8(this.#advance(1));
  }

  u16(): number {
    return this.#buffer.readUInt16LE(this.#advance(2));
  }

  i16(): number {
    return this.#buffer.readInt16LE(this.#advance(2));
  }

  u32(): number {
    return this.#buffer.readUInt32LE(this.#advance(4));
  }

  i32(): number {
    return this.#buffer.readInt32LE(this.#advance(4));
  }

  f32(): number {
    return this.#buffer.readFloatLE(this.#advance(4));
  }

  f64(): number {
    return this.#buffer.readDoubleLE(this.#advance(8));
  }

  /** A 64-bit count or offset. Those beyond 2^53 cannot describe a real file and are refused. */
  u64(): number {
    const at = this.#offset;
    const value = Number(this.#buffer.readBigUInt64LE(this.#advance(8)));
    if (!Number.isSafeInteger(value)) this.fail(`${value} is too large for a count or an offset`, at);
    return value;
  }

  i64(): number {
    return Number(this.#buffer.readBigInt64LE(this.#advance(8)));
  }

  /** A count of things that take at least `bytesEach` bytes of this file. */
  count(what: string, bytesEach: number): number {
    const at = this.#offset;
    const count = this.u64();
    if (count * bytesEach > this.remaining) {
      this.fail(
        `${count} ${what} do not fit in the ${this.remaining} bytes that are left: the file is truncated or damaged`,
        at,
      );
    }
    return count;
  }

  /** UTF-8 text with a 64-bit length in front. */
  string(): string {
    const length = this.count('bytes of text', 1);
    const at = this.#advance(length);
    return this.#buffer.toString('utf8', at, at + length);
  }

  fail(message: string, offset = this.#offset): never {
    throw new CheckpointError(message, { file: this.#file, offset });
  }

  /** Moves on by `length` bytes; where they start. */
  #advance(length: number): number {
    const at = this.#offset;
    if (length > this.#buffer.length - at) {
      this.fail(`${length} bytes are expected here but the file ends at ${this.#buffer.length}: it is truncated`, at);
    }
    this.#offset = at + length;
    return at;
  }
}
