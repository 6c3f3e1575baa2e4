import { CudaKvCache } from '@magicpig/cuda-kernels';
import { KvStore } from '@magicpig/kv-offload';
import { Llama, loadLlamaWeights, MagicPigPolicy, openCheckpoint, resolveAttention } from '../../dist/index.js';

const ANSWER = 16;
const ROWS = 256;
/** Every key is a candidate, with a probability of one but for angles near 180 degrees. */
const EVERYTHING = { policy: 'magicpig', K: 1, L: 512, minContext: 0 };

/** The CPU's greedy answer to a prompt, and how far the device's logits along it are from the CPU's; dense and sampled. */
export async function checkAnswers(source, { cpu, backend }, prompt) {
  const checkpoint = await openCheckpoint(source);
  const { config } = checkpoint;
  const { layers, kvHeads, queryHeads, headDim } = config;
  const tokens = Int32Array.from({ length: prompt }, (_, i) => (i * 7919 + 13) % config.vocabSize);
  const rows = [];
  const store = () => new KvStore({ layers, kvHeads, queryHeads, headDim, pool: cpu.pool });
  for (const policy of ['dense', 'magicpig']) {
    const onHost = policy === 'magicpig';
    const run = async (machine, cache, follow) => {
      const weights = await loadLlamaWeights(checkpoint, machine, { format: 'bf16' });
      const llama = new Llama({ config, backend: machine, cache, weights, maxRows: ROWS });
      const answer = answerOf({ llama, cache, config, pool: cpu.pool }, tokens, onHost, follow);
      for (const owned of [llama, cache, weights]) owned[Symbol.dispose]();
      return answer;
    };
    const expected = await run(cpu, store());
    const deviceBytes = 2 * CudaKvCache.bytesFor(config, prompt + ANSWER + ROWS);
    const host = onHost ? { host: store() } : {};
    const cache = new CudaKvCache({ backend, ...config, maxRows: ROWS, deviceBytes, ...host });
    const got = await run(backend, cache, expected.tokens);
    const errors = got.logits.map((row, i) => relativeError(row, expected.logits[i]));
    const sameTokens = got.tokens.filter((token, i) => token === expected.tokens[i]).length;
    const largestError = Math.max(...errors);
    rows.push({ policy, prompt, tokens: ANSWER, sameTokens, largestError });
    console.log(
      `${source}, ${policy}: logits within ${largestError.toExponential(1)} of the CPU's, ` +
        `${sameTokens} of ${ANSWER} greedy tokens the same`,
    );
  }
  checkpoint[Symbol.dispose]();
  return rows;
}

/** Greedy tokens and their logits; those of `follow` are appended instead, when given. */
function answerOf({ llama, cache, config, pool }, prompt, sampled, follow) {
  const sequence = cache.open();
  const settings = resolveAttention(EVERYTHING, config.layers);
  const attention = sampled ? new MagicPigPolicy({ settings, config, cache, pool }).open(sequence) : undefined;
  const promptTokens = prompt.length;
  const answer = { tokens: [], logits: [] };
  let next = prompt;
  for (let i = 0; i < ANSWER; i += 1) {
    if (i > 0) attention?.prepare(Number.POSITIVE_INFINITY);
    const sampling = i > 0 ? attention : undefined;
    const { logits } = llama.forward([{ sequence, tokens: next, promptTokens, attention: sampling, logits: 'last' }]);
    const token = logits[0].reduce((best, value, id) => (value > logits[0][best] ? id : best), 0);
    answer.tokens.push(token);
    answer.logits.push(logits[0].slice());
    next = Int32Array.of(follow?.[i] ?? token);
  }
  attention?.[Symbol.dispose]();
  sequence[Symbol.dispose]();
  return answer;
}

function relativeError(got, expected) {
  const norm = (values) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  return norm(got.map((value, i) => value - expected[i])) / norm(expected);
}
