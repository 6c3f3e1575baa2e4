import { CudaBackend, CudaKvCache } from '@magicpig/cuda-kernels';
import { KvStore } from '@magicpig/kv-offload';
import { Llama, MagicPigPolicy, resolveAttention } from '../../dist/index.js';

/** A prompt read with keys leaving for host memory, and the tables of them built when it has been read. */
export function measurePrefill({ config, weights, backend, cpu, emulate }, context) {
  const { layers, queryHeads, kvHeads, headDim } = config;
  const rows = emulate ? 64 : CudaBackend.prefillTokens;
  const store = new KvStore({ layers, kvHeads, queryHeads, headDim, pool: cpu.pool });
  const deviceBytes = CudaKvCache.bytesFor(config, context + rows);
  const cache = new CudaKvCache({ backend, ...config, maxRows: rows, deviceBytes, host: store });
  const llama = new Llama({ config, backend, cache, weights, maxRows: rows });
  const tokens = Int32Array.from({ length: context }, (_, i) => i % config.vocabSize);
  const read = () => {
    const sequence = cache.open();
    const start = performance.now();
    for (let done = 0; done < context; done += rows) {
      const chunk = tokens.subarray(done, done + rows);
      llama.forward([{ sequence, tokens: chunk, promptTokens: context, logits: 'none' }]);
    }
    backend.device.synchronize();
    return { sequence, start, readMs: performance.now() - start };
  };
  if (context <= 16384) read().sequence[Symbol.dispose](); // buffers are allocated, graphs captured
  const { sequence, start, readMs } = read();
  const settings = resolveAttention({ policy: 'magicpig', minContext: 0 }, layers);
  const attention = new MagicPigPolicy({ settings, config, cache, pool: cpu.pool }).open(sequence);
  attention.prepare(Number.POSITIVE_INFINITY);
  const withTablesMs = performance.now() - start;
  for (const owned of [attention, llama, cache]) owned[Symbol.dispose]();
  const seconds = (ms) => (ms / 1e3).toFixed(2);
  console.log(
    `prompt of ${context} in steps of ${rows}: ${seconds(readMs)} s, with tables ${seconds(withTablesMs)} s (${(withTablesMs / readMs).toFixed(2)}x)`,
  );
  return { context, rows, readMs, withTablesMs, ratio: withTablesMs / readMs };
}
