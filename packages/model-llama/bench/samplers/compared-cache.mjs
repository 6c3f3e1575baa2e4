/**
 * A KV cache that also attends exactly for every decoded row that samples, and adds up how far the two are apart.
 *
 * @param store The KvStore to wrap.
 * @param {{ queryHeads: number, headDim: number }} shape
 * @returns The cache; `watch(entries)` sets, for each entry of the steps to come, `{ draw?, errors }`: `draw(layer, queries)` is
 *   called before it attends, and `errors` of {@link emptyErrors} takes what is found.
 */
export function comparedCache(store, { queryHeads, headDim }) {
  let watched = [];
  let exact = new Float32Array(0);
  let standardErrors = new Float32Array(0);
  const width = queryHeads * headDim;
  return {
    watch(entries) {
      watched = entries;
      exact = new Float32Array(entries.length * width);
      standardErrors = new Float32Array(entries.length * queryHeads);
    },
    cache: {
      step(entries) {
        const step = store.step(entries);
        return {
          append: (...args) => step.append(...args),
          rollback: () => step.rollback(),
          attend(layer, queries, output, options) {
            const rows = options.sampling.flatMap((sampling, row) => (sampling ? [row] : []));
            if (rows.length === 0) return step.attend(layer, queries, output, options);
            for (const row of rows) {
              const begin = queries.offset + row * queries.stride;
              watched[row].draw?.(layer, queries.data.subarray(begin, begin + width));
            }
            step.attend(layer, queries, output, { ...options, standardError: standardErrors });
            step.attend(layer, queries, { data: exact, offset: 0, stride: width });
            for (const row of rows) {
              const sampled = output.data.subarray(output.offset + row * output.stride);
              for (let head = 0; head < queryHeads; head += 1) {
                const at = head * headDim;
                addError(
                  watched[row].errors,
                  sampled.subarray(at, at + headDim),
                  exact.subarray(row * width + at, row * width + at + headDim),
                  standardErrors[row * queryHeads + head],
                );
              }
            }
          },
        };
      },
    },
  };
}

/** Kernels that round otherwise are so far apart, relative to an output, with no sampling at all. */
const ROUNDING = 1e-3;

/**
 * Sums over heads, layers and steps: of |sampled - exact|^2 / |exact|^2, and of the estimates that are not below the rounding, how often
 * the distance is under twice the estimate.
 */
export function emptyErrors() {
  return { count: 0, squares: 0, estimated: 0, covered: 0 };
}

function addError(errors, sampled, exact, standardError) {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < exact.length; i += 1) {
    difference += (sampled[i] - exact[i]) ** 2;
    norm += exact[i] ** 2;
  }
  errors.count += 1;
  errors.squares += difference / norm;
  if (!(standardError > ROUNDING * Math.sqrt(norm))) return; // a truncation tells nothing
  errors.estimated += 1;
  if (Math.sqrt(difference) <= 2 * standardError) errors.covered += 1;
}
