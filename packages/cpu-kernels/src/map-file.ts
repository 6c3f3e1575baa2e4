import { constants } from 'node:buffer';
import { DisposedError, InvalidArgumentError, MapFileError } from './errors.js';
import { type NativeMapping, native } from './native.js';

const REASONS: Record<string, string> = {
  ENOENT: 'there is no such file',
  EACCES: 'reading it is not permitted',
  EISDIR: 'it is a directory',
  EMPTY: 'it is empty',
  ENOMEM: 'the system has no address space left for it',
};

/**
 * A file mapped read-only into memory: pages are read when first touched, nothing is copied. Writing to a view ends the
 * process with a segmentation fault. Unmapped when disposed, or when it and all its views have been garbage collected.
 */
export class MappedFile implements Disposable {
  readonly path: string;
  /** Bytes in the file. */
  readonly size: number;
  #mapping: NativeMapping | undefined;
  #whole: Uint8Array | undefined;
  #buffers = new Set<WeakRef<ArrayBufferLike>>();

  constructor(path: string) {
    const result = native.mapFile(path);
    if (typeof result === 'string') {
      throw new MapFileError(path, result, `cannot map ${path}: ${REASONS[result] ?? `the system says ${result}`}`);
    }
    this.path = path;
    this.size = result.size;
    this.#mapping = result.handle;
  }

  /**
   * The whole file.
   * @throws DisposedError
   * @throws MapFileError (`ERANGE`) when the file is larger than one typed array can be; use {@link view} then.
   */
  get bytes(): Uint8Array {
    this.#whole ??= this.view(0, this.size);
    return this.#whole;
  }

  /**
   * A part of the file, in place.
   * @throws DisposedError
   * @throws MapFileError (`ERANGE`) when the part reaches past the end of the file or is larger than one typed array can be.
   */
  view(offset: number, length: number): Uint8Array {
    if (!this.#mapping) throw new DisposedError(`mapped file ${this.path}`);
    for (const [name, value] of [
      ['offset', offset],
      ['length', length],
    ] as const) {
      if (!Number.isSafeInteger(value) || value < 0) {
        throw new InvalidArgumentError(`view: ${name} must be a non-negative integer, not ${value}`);
      }
    }
    if (offset + length > this.size) {
      throw new MapFileError(
        this.path,
        'ERANGE',
        `${this.path} has ${this.size} bytes; ${length} bytes at ${offset} reach past its end`,
      );
    }
    if (length > constants.MAX_LENGTH) {
      throw new MapFileError(
        this.path,
        'ERANGE',
        `${length} bytes of ${this.path} do not fit one typed array (at most ${constants.MAX_LENGTH}); take views of parts`,
      );
    }
    if (length === 0) return new Uint8Array(0);
    const view = native.mapView(this.#mapping, offset, length);
    this.#buffers.add(new WeakRef(view.buffer));
    return view;
  }

  /** Gives the memory of what was read back to the system. Views stay valid: pages are read again when touched. */
  trim(): void {
    if (!this.#mapping) throw new DisposedError(`mapped file ${this.path}`);
    native.trimFile(this.#mapping);
  }

  /** Unmaps the file at once; views taken from it become empty. */
  [Symbol.dispose](): void {
    if (!this.#mapping) return;
    const buffers = [...this.#buffers].map((buffer) => buffer.deref()).filter((buffer) => buffer !== undefined);
    native.unmapFile(this.#mapping, buffers);
    this.#mapping = undefined;
    this.#whole = undefined;
    this.#buffers.clear();
  }
}

/**
 * Maps a file read-only into memory.
 * @throws MapFileError when the file is missing, unreadable or empty; its `reason` is the system's code, or `EMPTY`.
 */
export function mapFile(path: string): MappedFile {
  if (typeof path !== 'string' || path.length === 0 || path.includes('\0')) {
    throw new InvalidArgumentError(`mapFile: path must be a non-empty string without NUL, not ${JSON.stringify(path)}`);
  }
  return new MappedFile(path);
}
