/** Each token of a sequence has queries of its own until so many have passed: those of a token are found in no cache. */
const SETS = 4;

/**
 * A cache on a device, with queries shaped as real ones in the place of the model's: other ones for each sequence and for each of some
 * tokens. Keys and queries are not rotated.
 */
export class ShapedQueries {
  #cache;
  #backend;
  #rotations;
  /** [SETS][layers][sequences][queryHeads * headDim], and the set in use. */
  #sets;
  #used;
  #slots;
  #width;
  #stride;
  #length = -1;

  /** @param sequences All that are stepped, in their order in a step. */
  constructor(cache, { backend, config }, shapes, sequences) {
    const { layers, queryHeads, kvHeads, headDim } = config;
    this.#cache = cache;
    this.#backend = backend;
    this.#width = queryHeads * headDim;
    this.#stride = this.#width + 2 * kvHeads * headDim;
    this.#slots = new Map(sequences.map((sequence, i) => [sequence, i]));
    const each = layers * sequences.length * this.#width;
    const values = new Float32Array(each);
    this.#sets = Array.from({ length: SETS }, () => {
      for (let row = 0; row < layers * sequences.length; row += 1) {
        values.set(shapes.queries(Math.floor(row / sequences.length)), row * this.#width);
      }
      return backend.device.upload('f32', values);
    });
    this.#used = backend.device.array('f32', each);
    this.#rotations = identityRotations(backend, sequences.length, headDim);
  }

  step(entries) {
    const { stream } = this.#backend;
    const step = this.#cache.step(entries);
    const { length } = entries[0].sequence;
    if (length !== this.#length) {
      // By itself, so that what is replayed as a graph is the same in every step.
      stream.flush();
      stream.copy(this.#used, this.#sets[length % SETS]);
      stream.flush();
      this.#length = length;
    }
    const first = this.#slots.get(entries[0].sequence);
    const begin = (layer, tensors, ...rest) => {
      const fromOffset = (layer * this.#slots.size + first) * this.#width;
      const strides = { toStride: this.#stride, fromStride: this.#width, fromOffset };
      stream.copyMatrix(tensors.qkv.f32(), this.#used, { rows: entries.length, width: this.#width, ...strides });
      step.begin(layer, { ...tensors, rotations: this.#rotations }, ...rest);
    };
    const device = { begin, finish: (layer) => step.finish(layer), end: () => step.end() };
    return { device, rollback: () => step.rollback() };
  }

  [Symbol.dispose]() {
    for (const owned of [...this.#sets, this.#used, this.#rotations]) owned[Symbol.dispose]();
  }
}

/** Rotations [rows, headDim] that leave everything where it is. */
export function identityRotations(backend, rows, headDim) {
  const tensor = backend.tensor(rows * headDim);
  for (let i = 0; i < rows * headDim; i += 1) tensor.host[i] = i % headDim < headDim / 2 ? 1 : 0;
  backend.toDevice(tensor, rows * headDim);
  return tensor;
}
