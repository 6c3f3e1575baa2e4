// Fills a context, then attends to it exactly and with 2% of its keys.
import { KvStore } from '@magicpig/kv-offload';
import { SimHashTables } from '@magicpig/lsh';

const [queryHeads, kvHeads, headDim, context] = [8, 2, 64, 16384];
const random = (length) => Float32Array.from({ length }, () => Math.random() + Math.random() + Math.random() - 1.5);
const rows = (count, heads) => ({ data: random(count * heads * headDim), offset: 0, stride: heads * headDim });

const store = new KvStore({ layers: 1, kvHeads, queryHeads, headDim, maxBytes: 2 ** 30 });
const sequence = store.open();
store.step([{ sequence, tokens: context }]).append(0, rows(context, kvHeads), rows(context, kvHeads));

// Tables over all tokens but the first 4 and the last 64, which are always attended exactly.
const [begin, end] = [4, context - 64];
const tables = new SimHashTables({ heads: kvHeads, dim: headDim });
for (let head = 0; head < kvHeads; head++) tables.add(head, store.readKeys(sequence, 0, head, begin, end));

const step = store.step([{ sequence, tokens: 1 }]);
step.append(0, rows(1, kvHeads), rows(1, kvHeads));
const queries = rows(1, queryHeads);
for (const sampling of [null, { selector: tables.selector, begin, end }]) {
  const output = { data: new Float32Array(queryHeads * headDim), offset: 0, stride: queryHeads * headDim };
  const keysRead = new Float64Array(1);
  const start = performance.now();
  step.attend(0, queries, output, { sampling: [sampling], keysRead });
  const share = keysRead[0] / (queryHeads * (context + 1));
  console.log(
    `${sampling ? 'sampled' : 'exact'}: ${(100 * share).toFixed(1)}% of keys, ${(performance.now() - start).toFixed(2)} ms`,
  );
}
