/**
 * A KV cache that also attends exactly wherever it samples, and adds up |sampled - exact|^2 / |exact|^2 of each query
 * head's output.
 *
 * @param cache The KvStore to wrap.
 * @param {{ queryHeads: number, headDim: number }} shape
 * @returns The cache, and `take()`: the root of the mean since the last call.
 */
export function attentionError(cache, { queryHeads, headDim }) {
  const scratch = new Float32Array(queryHeads * headDim);
  let squares = 0;
  let count = 0;
  return {
    take() {
      const error = Math.sqrt(squares / count);
      squares = 0;
      count = 0;
      return error;
    },
    cache: {
      step(entries) {
        const step = cache.step(entries);
        return {
          append: (...args) => step.append(...args),
          rollback: () => step.rollback(),
          attend(layer, queries, output, options) {
            step.attend(layer, queries, output, options);
            if (!options.sampling[0]) return;
            step.attend(layer, queries, { data: scratch, offset: 0, stride: scratch.length });
            for (let head = 0; head < queryHeads; head += 1) {
              let difference = 0;
              let norm = 0;
              for (let i = head * headDim; i < (head + 1) * headDim; i += 1) {
                difference += (output.data[i] - scratch[i]) ** 2;
                norm += scratch[i] ** 2;
              }
              squares += difference / norm;
              count += 1;
            }
          },
        };
      },
    },
  };
}
