import { type Native, type Status, SUCCESS } from './native.js';

type Argument = number | boolean;

/** A call to the addon that queues work. */
interface Call {
  what: string;
  name: keyof Native;
  args: Argument[];
}

/** A stretch of calls that came before. */
interface Known<G> {
  calls: Call[];
  /** `none` where it could not be captured: it is called one by one always. */
  graph: G | 'none' | undefined;
}

/** What is done with a stretch of calls. */
export interface ReplayTarget<G extends Disposable> {
  call(what: string, run: (native: Native) => Status): void;
  /** Captures what `body` calls. */
  capture(body: () => void): G;
  launch(graph: G): void;
}

/** Shorter stretches are called as fast as a graph is launched. */
const LEAST_CALLS = 3;
/** Graphs that are kept, those used last. */
const MOST_GRAPHS = 256;

/**
 * Holds back calls that queue work, and replays a stretch of them as one graph when it comes again with the same arguments. A stretch
 * is called one by one the first time, captured the second time, if that can be done. Whatever is different (an address, a size) makes it another one:
 * nothing has to be invalidated.
 */
export class Replay<G extends Disposable> implements Disposable {
  readonly #target: ReplayTarget<G>;
  /** By hash, least recently used first. */
  readonly #known = new Map<number, Known<G>>();
  #calls: Call[] = [];
  #hash = 0;
  #what = '';
  /** Takes the place of the addon: takes note of calls. */
  readonly #recorder: Native;

  constructor(target: ReplayTarget<G>) {
    this.#target = target;
    const methods = new Map<string, (...args: Argument[]) => Status>();
    this.#recorder = new Proxy({} as Native, {
      get: (_, name: keyof Native) => {
        let method = methods.get(name);
        if (method === undefined) {
          method = (...args) => this.#record(name, args);
          methods.set(name, method);
        }
        return method;
      },
    });
  }

  /** Takes note of what `run` calls. */
  defer(what: string, run: (native: Native) => Status): void {
    this.#what = what;
    run(this.#recorder);
  }

  /** Queues what was held back. */
  flush(): void {
    const calls = this.#calls;
    if (calls.length === 0) return;
    const hash = this.#hash;
    this.#calls = [];
    this.#hash = 0;
    if (calls.length < LEAST_CALLS) {
      this.#run(calls);
      return;
    }
    const known = this.#known.get(hash);
    if (known === undefined || !sameCalls(known.calls, calls)) {
      this.#forget(hash);
      this.#run(calls);
      this.#remember(hash, { calls, graph: undefined });
      return;
    }
    known.graph ??= this.#capture(calls);
    if (known.graph === 'none') this.#run(calls);
    else this.#target.launch(known.graph);
    this.#known.delete(hash);
    this.#remember(hash, known);
  }

  /** Forgets what was held back and all graphs. */
  [Symbol.dispose](): void {
    this.#calls = [];
    for (const hash of [...this.#known.keys()]) this.#forget(hash);
  }

  #record(name: keyof Native, args: Argument[]): Status {
    this.#calls.push({ what: this.#what, name, args });
    let hash = this.#hash ^ name.length;
    for (const value of args) hash = Math.imul(hash ^ Number(value), 0x01000193) ^ (hash >>> 15);
    this.#hash = hash;
    return SUCCESS;
  }

  #run(calls: readonly Call[]): void {
    for (const { what, name, args } of calls) {
      this.#target.call(what, (native) => (native[name] as (...args: Argument[]) => Status)(...args));
    }
  }

  #capture(calls: readonly Call[]): G | 'none' {
    try {
      return this.#target.capture(() => this.#run(calls));
    } catch {
      return 'none'; // what is wrong with the calls themselves comes up when they are made
    }
  }

  #remember(hash: number, known: Known<G>): void {
    this.#known.set(hash, known);
    if (this.#known.size > MOST_GRAPHS) this.#forget(this.#known.keys().next().value!);
  }

  #forget(hash: number): void {
    const graph = this.#known.get(hash)?.graph;
    if (graph !== 'none') graph?.[Symbol.dispose]();
    this.#known.delete(hash);
  }
}

function sameCalls(a: readonly Call[], b: readonly Call[]): boolean {
  return (
    a.length === b.length &&
    a.every(({ name, args }, i) => {
      const other = b[i]!;
      return (
        name === other.name && args.length === other.args.length && args.every((value, j) => value === other.args[j])
      );
    })
  );
}
