import { KvStore } from '@magicpig/kv-offload';
import { SimHashTables } from '@magicpig/lsh';
import { MagicPigPolicy, resolveAttention, SketchPolicy } from '../../dist/index.js';
import { median } from '../common.mjs';
import { gib } from './machine.mjs';

const POLICIES = { magicpig: MagicPigPolicy, sketch: SketchPolicy };
const SELECT_ROUNDS = 5;

/** Contexts of one length in host memory, their keys shaped as real ones, and what policies index of them. */
export class HostContexts {
  store;
  /** Each { sequence, attention: by policy }. */
  contexts = [];
  #machine;
  #policies;
  #tokens;

  /**
   * As many of `wanted` contexts as memory and half of the time allow.
   *
   * @throws RangeError when not even one fits
   */
  constructor(machine, shapes, { tokens, policies, wanted }) {
    const { config, cpu } = machine;
    const { layers, queryHeads, kvHeads, headDim } = config;
    this.#machine = machine;
    this.#tokens = tokens;
    this.store = new KvStore({ layers, kvHeads, queryHeads, headDim, pool: cpu.pool });
    this.#policies = policies.map((policy) => {
      const settings = resolveAttention({ policy, minContext: 0 }, layers);
      return new POLICIES[policy]({ settings, config, cache: this.store, pool: cpu.pool });
    });
    const each = this.store.bytesFor(tokens) + this.#policies.reduce((sum, policy) => sum + policy.bytesFor(tokens), 0);
    const room = machine.hostBytes;
    const fitting = Math.min(Math.floor(room / each), wanted);
    if (fitting < 1) {
      throw new RangeError(
        `a context of ${tokens} tokens takes ${gib(each)} of host memory, and there are ${gib(room)}`,
      );
    }
    const start = performance.now();
    while (this.contexts.length < fitting && !(this.contexts.length > 0 && machine.halfway)) {
      const sequence = shapes.fill(this.store, tokens);
      const opened = this.#policies.map((policy) => [policy.name, policy.open(sequence)]);
      for (const [, attention] of opened) attention.prepare(Number.POSITIVE_INFINITY);
      this.contexts.push({ sequence, attention: Object.fromEntries(opened) });
    }
    const seconds = ((performance.now() - start) / 1e3).toFixed(0);
    console.log(
      `  ${this.contexts.length} contexts in host memory, ${gib(each)} each, filled and indexed in ${seconds} s`,
    );
  }

  /** The store as a cache on a device takes it, which then does not own it; `load(i)` forks context i, or i modulo how many there are. */
  get lent() {
    const { store, contexts } = this;
    const own = {
      load: (i) => ({ sequence: contexts[i % contexts.length].sequence.fork(), attachments: {} }),
      [Symbol.dispose]() {},
    };
    return new Proxy(store, {
      get(target, name) {
        if (Object.hasOwn(own, name)) return own[name];
        const value = Reflect.get(target, name, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  }

  /** What attends in context i, or i modulo how many there are. */
  attention(policy, i) {
    return this.contexts[i % this.contexts.length].attention[policy];
  }

  /**
   * Milliseconds that choosing the keys of one token takes of a step's, an estimate: `attend` chooses and attends in one go, so the
   * tables of one layer are asked alone, by one thread, for all layers and threads.
   */
  selectMs(shapes) {
    const { config, cpu } = this.#machine;
    const { kvHeads, queryHeads, headDim, layers } = config;
    const { settings, projection } = this.#policies.find(({ name }) => name === 'magicpig');
    const sampled = Array.from({ length: layers }, (_, i) => i).filter((i) => !settings.denseLayers.includes(i));
    const [layer] = sampled;
    const tables = new SimHashTables({ heads: kvHeads, dim: headDim, projection, minCollisions: 2, pool: cpu.pool });
    const [{ sequence }] = this.contexts;
    for (let head = 0; head < kvHeads; head += 1) {
      tables.add(head, this.store.readKeys(sequence, layer, head, settings.sink, this.#tokens - settings.window));
    }
    const queries = Array.from({ length: SELECT_ROUNDS }, () => shapes.queries(layer));
    const times = queries.map((all) => {
      const start = performance.now();
      for (let head = 0; head < queryHeads; head += 1) {
        const query = all.subarray(head * headDim, (head + 1) * headDim);
        tables.query(Math.floor((head * kvHeads) / queryHeads), query);
      }
      return performance.now() - start;
    });
    tables[Symbol.dispose]();
    return (median(times) * sampled.length) / cpu.threads;
  }

  [Symbol.dispose]() {
    for (const { attention } of this.contexts) for (const one of Object.values(attention)) one[Symbol.dispose]();
    this.store[Symbol.dispose]();
  }
}
