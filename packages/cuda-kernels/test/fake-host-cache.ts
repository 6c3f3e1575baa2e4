import type { HostCache, HostStep, KvSequence } from '../src/index.js';
import type { FakeNative } from './fake-native.js';

interface Recorded {
  length: number;
  disposed: boolean;
}

/** A cache in host memory that holds nothing, checks lengths, and leaves notes among the calls of a fake device. */
export class FakeHostCache implements HostCache {
  readonly dtype = 'bf16';
  readonly pageTokens = 64;
  readonly open_ = new Set<Recorded>();
  /** Thrown by the next call of a name. */
  readonly failures = new Map<string, Error>();
  readonly #fake: FakeNative;

  constructor(fake: FakeNative) {
    this.#fake = fake;
  }

  get bytes(): number {
    return [...this.open_].reduce((sum, { length }) => sum + this.bytesFor(length), 0);
  }

  open(): KvSequence {
    return this.#sequence(0);
  }

  bytesFor(tokens: number): number {
    return Math.ceil(tokens / this.pageTokens) * 1000;
  }

  step(entries: readonly { sequence: KvSequence; tokens: number }[]): HostStep {
    this.#note('host.step');
    const grown = entries.map(({ sequence, tokens }) => ({ state: sequence as unknown as Recorded, tokens }));
    for (const { state, tokens } of grown) state.length += tokens;
    const appended = new Set<number>();
    return {
      append: (layer) => {
        this.#note('host.append', layer);
        if (appended.has(layer)) this.#fake.problems.push(`layer ${layer} is appended twice`);
        appended.add(layer);
      },
      attend: (layer, _queries, _output, options) => {
        this.#note('host.attend', layer, options?.sampling);
        if (options?.sampledMs) for (const i of [0, 1]) options.sampledMs[i]! += 3 * (i + 1);
        const earlier = options?.sampling?.every((one) => one?.sampledOnly);
        if (!earlier && !appended.has(layer)) this.#fake.problems.push(`attention to layer ${layer} before its keys`);
      },
      rollback: () => {
        this.#note('host.rollback');
        for (const { state, tokens } of grown) state.length -= tokens;
      },
    };
  }

  readKeys<T extends Float32Array | Uint16Array = Float32Array>(
    _sequence: KvSequence,
    layer: number,
    head: number,
    begin: number,
    end: number,
    out?: T,
  ): T {
    this.#note('host.readKeys', layer, head, begin, end);
    return out!;
  }

  readValues<T extends Float32Array | Uint16Array = Float32Array>(
    _sequence: KvSequence,
    _layer: number,
    _head: number,
    _begin: number,
    _end: number,
    out?: T,
  ): T {
    return out!;
  }

  save(): void {
    this.#note('host.save');
  }

  load(): { sequence: KvSequence; attachments: Record<string, Uint8Array> } {
    return { sequence: this.#sequence(100), attachments: {} };
  }

  [Symbol.dispose](): void {
    this.#note('host.dispose');
  }

  #note(name: string, ...args: unknown[]): void {
    this.#fake.calls.push({ name, args });
    const failure = this.failures.get(name);
    this.failures.delete(name);
    if (failure) throw failure;
  }

  #sequence(length: number): KvSequence {
    const cache = this;
    const state = { length, disposed: false };
    this.open_.add(state);
    return Object.assign(state, {
      fork: () => cache.#sequence(state.length),
      truncate(to: number) {
        state.length = to;
      },
      [Symbol.dispose]() {
        cache.open_.delete(state);
      },
    });
  }
}
