import { createHash, type Hash } from 'node:crypto';
import type { WeightSource } from './backend.js';
import type { Checkpoint } from './checkpoint.js';

/** Raised when snapshots of earlier versions are of no use any more. */
const VERSION = 1;
/** Of a tensor's data so many pieces of so many bytes are looked at: models differ everywhere. */
const PIECES = 16;
const PIECE_BYTES = 1024;

/**
 * Watches a checkpoint's tensors being read, and tells it from others by shape, weights and the formats they are held in.
 */
export class Fingerprint {
  /** The checkpoint, to be read instead. */
  readonly checkpoint: Checkpoint;
  readonly #hash: Hash;

  /** @param formats Of weights and of the KV cache. */
  constructor(checkpoint: Checkpoint, formats: string) {
    this.#hash = createHash('sha256').update(JSON.stringify([VERSION, formats, checkpoint.config]));
    this.checkpoint = {
      name: checkpoint.name,
      config: checkpoint.config,
      tensorNames: checkpoint.tensorNames,
      tokenizer: checkpoint.tokenizer,
      tensor: (name, rows, cols) => {
        const source = checkpoint.tensor(name, rows, cols);
        this.#add(name, source);
        return source;
      },
      trim: () => checkpoint.trim(),
      [Symbol.dispose]: () => checkpoint[Symbol.dispose](),
    };
  }

  /** Hexadecimal, of the tensors read until now; call it once. */
  digest(): string {
    return this.#hash.digest('hex');
  }

  #add(name: string, source: WeightSource): void {
    if (source.type === 'random') {
      this.#hash.update(JSON.stringify([name, source]));
      return;
    }
    const { type, rows, cols, data } = source;
    this.#hash.update(JSON.stringify([name, type, rows, cols]));
    const step = Math.max(Math.floor((data.length - PIECE_BYTES) / (PIECES - 1)), PIECE_BYTES);
    for (let at = 0; at < data.length; at += step) this.#hash.update(data.subarray(at, at + PIECE_BYTES));
  }
}
