// What do the formats of the weights cost in exactness? Perplexity of a text under the weights as the file gives them
// (`f32`: dequantised, everything in float32) and under the other formats, with a bfloat16 KV cache as in use.
//
//   node bench/perplexity.mjs --model smollm2 --tokens 4096
import { benchOptions, benchText, writeResults } from './common.mjs';
import { openLlama, prefill } from './open-llama.mjs';

const FORMATS = ['f32', 'bf16', 'q8'];
const { model: source, threads, contexts } = benchOptions({ tokens: '4096' });
const count = contexts.at(-1);

console.log(`${source}, ${count} tokens\n\nweights  perplexity  against f32`);
const rows = [];
for (const format of FORMATS) {
  const model = await openLlama({ source, threads, format });
  const tokens = model.tokenizer.encode(benchText()).subarray(0, count + 1);
  let surprise = 0;
  prefill(model.llama, model.store.open(), tokens.subarray(0, -1), (logits, row) => {
    surprise -= logProbability(logits, tokens[row + 1]);
  });
  const perplexity = Math.exp(surprise / (tokens.length - 1));
  rows.push({ format, perplexity, ratio: perplexity / (rows[0]?.perplexity ?? perplexity) });
  console.log(
    `${format.padEnd(7)}  ${perplexity.toFixed(3).padStart(10)}  ${(100 * (rows.at(-1).ratio - 1)).toFixed(2).padStart(10)}%`,
  );
  model[Symbol.dispose]();
}
writeResults('perplexity', { model: source, tokens: count, rows });

/** Natural logarithm of a token's probability. */
function logProbability(logits, token) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - largest), 0);
  return logits[token] - largest - Math.log(sum);
}
