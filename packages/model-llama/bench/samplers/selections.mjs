// Attention by selectors that look at every key, for comparison: what is exact and what is drawn follows the same schedule
// as in the policies `magicpig` and `sketch`.
import { GivenSelector, TopKSelector } from '@magicpig/kv-offload';
import { AttentionMeter } from '../../dist/index.js';

/** Tokens [sink, end) are open to selection; `select(sequence, begin, end)` gives the selector for them. */
class Selection {
  bytes = 0;
  #sequence;
  #settings;
  #select;
  #end;
  #selector;
  #meter;

  constructor(sequence, settings, config, select) {
    this.#sequence = sequence;
    this.#settings = settings;
    this.#select = select;
    this.#end = sequence.length - settings.window;
    this.#selector = select(sequence, settings.sink, this.#end);
    this.#meter = new AttentionMeter('selection', {
      ...config,
      sampledLayers: config.layers - settings.denseLayers.length,
    });
  }

  get ready() {
    return this.#sequence.length - this.#settings.window - this.#end < this.#settings.window;
  }

  prepare() {
    this.#end += this.#settings.window;
    this.#selector = this.#select(this.#sequence, this.#settings.sink, this.#end);
  }

  sampling(layer) {
    if (this.#settings.denseLayers.includes(layer)) return null;
    return { selector: this.#selector.selector, begin: this.#settings.sink, end: this.#end };
  }

  /** Sees a layer's queries [queryHeads * headDim] before they attend. */
  draw(layer, queries, step) {
    this.#selector.draw?.(layer, queries, step);
  }

  afterDecode(context, keysRead) {
    this.#meter.add(context, this.#end - this.#settings.sink, keysRead);
  }

  report() {
    return this.#meter.report();
  }

  [Symbol.dispose]() {}
}

/** The keys of largest score, a share of all. */
export function topK(share, settings, config) {
  const select = (sequence, begin, end) =>
    new TopKSelector({ sequence, begin, keys: Math.round(share * (end - begin)) });
  return (sequence) => new Selection(sequence, settings, config, select);
}

/** Independent draws with probabilities that follow the true scores, a share of all keys in expectation. */
export function oracle(share, settings, config, store) {
  const select = (sequence, begin, end) => new Oracle(share, config, store, sequence, begin, end);
  return (sequence) => new Selection(sequence, settings, config, select);
}

class Oracle {
  #share;
  #config;
  #given;
  /** Of each layer and KV head, [end - begin, headDim], read when they are first needed. */
  #keys = new Map();
  #read;
  #random = generator(1);

  constructor(share, config, store, sequence, begin, end) {
    this.#share = share;
    this.#config = config;
    this.#given = new GivenSelector(store);
    this.#read = (layer, head) => store.readKeys(sequence, layer, head, begin, end);
  }

  get selector() {
    return this.#given.selector;
  }

  draw(layer, queries) {
    const { queryHeads, kvHeads, headDim } = this.#config;
    for (let head = 0; head < queryHeads; head += 1) {
      const kvHead = Math.floor((head * kvHeads) / queryHeads);
      const at = layer * kvHeads + kvHead;
      let keys = this.#keys.get(at);
      if (!keys) this.#keys.set(at, (keys = this.#read(layer, kvHead)));
      const scores = scoresOf(keys, queries.subarray(head * headDim, (head + 1) * headDim));
      const { ids, logProbabilities } = poissonDraw(scores, this.#share, this.#random);
      this.#given.set(layer, head, ids, logProbabilities);
    }
  }
}

/** Scores [n] of keys [n, d] for a query [d], scaled as attention does. */
export function scoresOf(keys, query) {
  const dim = query.length;
  const scale = 1 / Math.sqrt(dim);
  const scores = new Float32Array(keys.length / dim);
  for (let i = 0, at = 0; i < scores.length; i += 1) {
    let [even, odd] = [0, 0];
    for (let j = 0; j < dim; j += 2, at += 2) {
      even += keys[at] * query[j];
      odd += keys[at + 1] * query[j + 1];
    }
    scores[i] = scale * (even + odd);
  }
  return scores;
}

/** Draws each key with probability min(1, tau e^score), tau such that a share of them is expected. */
function poissonDraw(scores, share, random) {
  const count = scores.length;
  let largest = scores[0];
  for (let i = 1; i < count; i += 1) if (scores[i] > largest) largest = scores[i];
  const weights = new Float64Array(count);
  for (let i = 0; i < count; i += 1) weights[i] = Math.exp(scores[i] - largest);
  const tau = tauOf(weights, share * count);
  const ids = [];
  const logProbabilities = [];
  for (let id = 0; id < count; id += 1) {
    const probability = Math.min(1, tau * weights[id]);
    if (random() >= probability) continue;
    ids.push(id);
    logProbabilities.push(Math.log(probability));
  }
  return { ids: Uint32Array.from(ids), logProbabilities: Float32Array.from(logProbabilities) };
}

/** The tau with sum min(1, tau weight) = expected. */
export function tauOf(weights, expected) {
  let tau = 0;
  for (let before = -1; ; ) {
    let [certain, rest] = [0, 0];
    for (const weight of weights) {
      if (tau * weight < 1) rest += weight;
      else certain += 1;
    }
    if (certain === before) return tau;
    before = certain;
    tau = (expected - certain) / rest;
  }
}

/** Uniform numbers in [0, 1): the generator mulberry32. */
export function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
