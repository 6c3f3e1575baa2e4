import { CudaBackend, CudaKvCache } from '@magicpig/cuda-kernels';
import { KvStore } from '@magicpig/kv-offload';
import { Llama, MagicPigPolicy, resolveAttention } from '../../dist/index.js';

/** A prompt read with keys leaving for host memory, and the same with tables of them built beside its last tokens. */
export function measurePrefill({ config, weights, backend, cpu, emulate }, context) {
  const { layers, queryHeads, kvHeads, headDim } = config;
  const rows = emulate ? 64 : CudaBackend.prefillTokens;
  const store = new KvStore({ layers, kvHeads, queryHeads, headDim, pool: cpu.pool });
  const deviceBytes = CudaKvCache.bytesFor(config, context + rows);
  const cache = new CudaKvCache({ backend, ...config, maxRows: rows, deviceBytes, host: store });
  const llama = new Llama({ config, backend, cache, weights, maxRows: rows });
  const tokens = Int32Array.from({ length: context }, (_, i) => i % config.vocabSize);
  const settings = resolveAttention({ policy: 'magicpig', minContext: 0 }, layers);
  const policy = new MagicPigPolicy({ settings, config, cache, pool: cpu.pool });
  /** Reads the prompt: how long it took, and until the first token could be decoded. */
  const read = (withTables) => {
    const sequence = cache.open();
    const attention = policy.open(sequence);
    const tables = {
      run: (computed) => attention.prepare(Number.POSITIVE_INFINITY, computed),
      abandon: () => attention.abandon(),
    };
    const start = performance.now();
    for (let done = 0; done < context; done += rows) {
      const chunk = tokens.subarray(done, done + rows);
      const last = done + rows >= context;
      const beside = withTables && last ? tables : undefined;
      llama.forward([{ sequence, tokens: chunk, promptTokens: context, logits: last ? 'last' : 'none', beside }]);
    }
    backend.device.synchronize();
    if (withTables) attention.prepare(Number.POSITIVE_INFINITY);
    const ms = performance.now() - start;
    for (const owned of [attention, sequence]) owned[Symbol.dispose]();
    return ms;
  };
  if (context <= 16384) read(true); // buffers are allocated, graphs captured
  const readMs = read(false);
  const withTablesMs = read(true);
  for (const owned of [llama, cache]) owned[Symbol.dispose]();
  const seconds = (ms) => (ms / 1e3).toFixed(2);
  console.log(
    `prompt of ${context} in steps of ${rows}: ${seconds(readMs)} s, with tables ${seconds(withTablesMs)} s (${(withTablesMs / readMs).toFixed(2)}x)`,
  );
  return { context, rows, readMs, withTablesMs, ratio: withTablesMs / readMs };
}
