/** Lengths of queries, of the keys' mean, of what keys differ from it by, and of the first key; cosines to the query. */
const SHAPE = {
  query: 14.1,
  mean: 11.8,
  deviation: 12.6,
  sink: 5.4,
  cosineMean: -0.44,
  cosineSink: 0.28,
  cosineSpread: 0.16,
};
/** Queries that share keys differ from their common direction by about this share of their length. */
const QUERY_NOISE = 0.3;
const CHUNK_TOKENS = 2048;

/**
 * Keys and queries shaped as those measured in SmolLM2-135M at 6,000 tokens of prose (medians over layers and heads): the keys
 * lie around a mean that is almost opposite to the queries, and the first key is on the queries' side.
 */
export class ShapedContext {
  #config;
  #normal;
  #directions;

  /** @param normal As {@link normalValues} gives it. */
  constructor(config, normal) {
    this.#config = config;
    this.#normal = normal;
    this.#directions = Array.from({ length: config.layers * config.kvHeads }, () => this.#direction());
  }

  /** A sequence of so many tokens in a KvStore of the shape. */
  fill(store, tokens) {
    const { layers, kvHeads, headDim } = this.#config;
    const sequence = store.open();
    const width = kvHeads * headDim;
    const scale = SHAPE.deviation / Math.sqrt(headDim);
    const spread = Math.sqrt(headDim) * SHAPE.cosineSpread - 1; // along the query, beyond an even spread
    for (let first = 0; first < tokens; first += CHUNK_TOKENS) {
      const count = Math.min(CHUNK_TOKENS, tokens - first);
      const step = store.step([{ sequence, tokens: count }]);
      const values = this.#normal(count * width);
      for (let layer = 0; layer < layers; layer += 1) {
        const keys = this.#normal(count * width);
        for (let i = 0; i < count * kvHeads; i += 1) {
          const { query, mean, sink } = this.#directions[layer * kvHeads + (i % kvHeads)];
          const key = keys.subarray(i * headDim, (i + 1) * headDim);
          const along = spread * dot(key, query);
          for (let j = 0; j < headDim; j += 1) key[j] = mean[j] + scale * (key[j] + along * query[j]);
          if (first === 0 && i < kvHeads) key.set(sink);
        }
        const rows = (data) => ({ data, offset: 0, stride: width });
        step.append(layer, rows(keys), rows(values));
      }
    }
    return sequence;
  }

  /** Queries of a layer's heads, [queryHeads * headDim], around the direction that those of a KV head have in common. */
  queries(layer) {
    const { kvHeads, queryHeads, headDim } = this.#config;
    const all = new Float32Array(queryHeads * headDim);
    for (let head = 0; head < queryHeads; head += 1) {
      const { query } = this.#directions[layer * kvHeads + Math.floor((head * kvHeads) / queryHeads)];
      const noise = this.#normal(headDim);
      const own = unit(query.map((value, j) => value + (QUERY_NOISE / Math.sqrt(headDim)) * noise[j]));
      all.set(
        own.map((value) => SHAPE.query * value),
        head * headDim,
      );
    }
    return all;
  }

  /** A KV head's common direction of queries, its mean key, and its first key. */
  #direction() {
    const query = unit(this.#normal(this.#config.headDim));
    const other = this.#normal(this.#config.headDim);
    const along = dot(other, query);
    const across = unit(other.map((value, j) => value - along * query[j]));
    const at = (length, cosine) =>
      query.map((value, j) => length * (cosine * value + Math.sqrt(1 - cosine ** 2) * across[j]));
    return { query, mean: at(SHAPE.mean, SHAPE.cosineMean), sink: at(SHAPE.sink, SHAPE.cosineSink) };
  }
}

/** Standard normal values, other ones at each call. */
export function normalValues(backend) {
  let seed = 1;
  return (length) => {
    const tensor = backend.vector({ type: 'random', rows: 1, cols: length, seed: seed++, std: 1 });
    const values = tensor.host.slice();
    tensor[Symbol.dispose]();
    return values;
  };
}

function unit(values) {
  const length = Math.sqrt(dot(values, values));
  return values.map((value) => value / length);
}

function dot(a, b) {
  let sum = 0;
  for (let j = 0; j < a.length; j += 1) sum += a[j] * b[j];
  return sum;
}
