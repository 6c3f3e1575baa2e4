import { OutOfMemoryError } from '../errors.js';
import { PAGE_TOKENS } from '../kv-view.js';
import type { CudaKvSequence } from './cuda-kv-sequence.js';
import type { PagePool } from './page-pool.js';
import type { StepPart } from './step-context.js';

/** A sequence's part of a step. */
export interface StepEntry {
  sequence: CudaKvSequence;
  tokens: number;
  /** Keys of some layers are sampled for it. Default false. */
  sampled?: boolean;
}

/** Layers that the device takes up again, by sequence. */
export type Reloads = Map<CudaKvSequence, Set<number>>;

/** Makes sure that there are pages for a step where keys and values live on the device alone. */
export function planOnDevice(pool: PagePool, entries: readonly StepEntry[]): Reloads {
  const needed = entries.reduce((sum, entry) => sum + needs(entry), 0);
  if (needed > pool.free) throw full(pool, needed);
  return new Map();
}

/**
 * What the device holds of a step's sequences, host memory having everything. It gives up, in this order until the rest fits: what
 * sequences outside the step have there, longest unused first; bringing back what was given up before; what the step's own sequences
 * have, longest first.
 *
 * @param live all sequences
 */
export function planBesideHost(pool: PagePool, live: Iterable<CudaKvSequence>, entries: readonly StepEntry[]): Reloads {
  const stepping = new Set(entries.map(({ sequence }) => sequence));
  const reload = new Set<CudaKvSequence>();
  // Sequences that read a prompt again want all layers; those that decode have given up what they sample.
  for (const { sequence, tokens } of entries) {
    if (tokens === 1) continue;
    for (const layer of sequence.pages.keys()) if (!sequence.whole(layer)) sequence.drop(layer);
    if (sequence.pages.some((held) => held === undefined)) reload.add(sequence);
  }
  const needed = () =>
    entries.reduce((sum, { sequence, tokens }) => {
      const pages = Math.ceil((sequence.length + tokens) / PAGE_TOKENS);
      const missing = sequence.pages.filter((held) => held === undefined).length;
      const scratch = tokens > 1 && missing > 0 ? Math.ceil(tokens / PAGE_TOKENS) : 0;
      return sum + needs({ sequence, tokens }) + (reload.has(sequence) ? missing * pages : scratch);
    }, 0);
  const others = [...live].filter((sequence) => !stepping.has(sequence));
  others.sort((a, b) => b.lastStep - a.lastStep);
  const dropAll = (sequence: CudaKvSequence) => {
    for (const layer of sequence.pages.keys()) sequence.drop(layer);
  };
  while (needed() > pool.free && others.length > 0) dropAll(others.pop()!);
  while (needed() > pool.free && reload.size > 0) reload.delete([...reload].pop()!);
  const own = [...stepping].sort((a, b) => a.length - b.length);
  while (needed() > pool.free && own.length > 0) dropAll(own.pop()!);
  if (needed() > pool.free) throw full(pool, needed());
  const missing: Reloads = new Map();
  for (const sequence of reload) {
    missing.set(sequence, new Set(sequence.pages.flatMap((held, layer) => (held === undefined ? [layer] : []))));
  }
  return missing;
}

/**
 * Entries that are computed alike: neighbours that decode together and attend in the same places, every stretch of a prompt by itself.
 */
export function partsOf(entries: readonly StepEntry[]): StepPart[] {
  const parts: StepPart[] = [];
  let row = 0;
  for (const [index, entry] of entries.entries()) {
    const last = parts.at(-1);
    if (entry.tokens === 1 && last?.decodes && alike(last.entries[0]!, entry)) {
      last.entries.push(entry);
      last.rows += 1;
    } else {
      const { tokens } = entry;
      parts.push({
        entries: [entry],
        index,
        row,
        rows: tokens,
        decodes: tokens === 1,
        reloads: new Set(),
        scratch: [],
        host: undefined,
      });
    }
    row += entry.tokens;
  }
  return parts;
}

/**
 * Whether the host, or the device, attends for both: what the host must attend to for the one would be attended to there for all. Of
 * what is sampled the device has the first and the last tokens, of all else everything, or it has nothing.
 */
function alike(a: StepEntry, b: StepEntry): boolean {
  const held = ({ sequence: { pages }, sampled }: StepEntry) => pages.every((one) => (sampled ? one : one?.whole));
  return (a.sampled ?? false) === (b.sampled ?? false) && held(a) === held(b);
}

/** Pages that an entry takes in the layers that the device holds. */
function needs({ sequence, tokens }: StepEntry): number {
  let pages = 0;
  for (const [layer, held] of sequence.pages.entries()) if (held !== undefined) pages += sequence.needs(layer, tokens);
  return pages;
}

function full({ free, pageBytes }: PagePool, pages: number): OutOfMemoryError {
  return new OutOfMemoryError(
    `${pages * pageBytes} bytes of device memory for keys and values were asked for, and ${free * pageBytes} are free.`,
    pages * pageBytes,
  );
}
