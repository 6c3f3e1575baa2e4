import { type Check, guarded } from './check.js';

/** Loads every native addon and lets it compute something small whose result is known. */
export async function checkAddons(): Promise<Check[]> {
  return [
    await guarded('cpu-kernels', checkCpuKernels),
    await guarded('kv-offload', checkKvOffload),
    await guarded('lsh', checkLsh),
  ];
}

/** A small product, against the same sums in JavaScript. */
async function checkCpuKernels(): Promise<Check> {
  const name = 'cpu-kernels';
  const { CpuBackend, cpuInfo } = await import('@magicpig/cpu-kernels');
  const [rows, cols] = [8, 64];
  using backend = new CpuBackend({ threads: 1 });
  const matrix = Float32Array.from({ length: rows * cols }, (_, i) => ((i * 7) % 13) - 6);
  using weight = backend.weight([{ type: 'f32', data: new Uint8Array(matrix.buffer), rows, cols }], { format: 'f32' });
  using x = backend.tensor(cols);
  using out = backend.tensor(rows);
  x.host.forEach((_, i) => {
    x.host[i] = (i % 5) - 2;
  });
  backend.linear(out, x, weight, 1);
  for (let row = 0; row < rows; row += 1) {
    let sum = 0;
    for (let col = 0; col < cols; col += 1) sum += matrix[row * cols + col]! * x.host[col]!;
    if (out.host[row] !== sum) throw new Error(`a product of small integers gave ${out.host[row]} instead of ${sum}`);
  }
  const info = cpuInfo();
  return {
    name,
    status: info.isa === 'portable' && process.arch === 'x64' ? 'warning' : 'ok',
    message: `loads and computes; uses ${info.isa} of ${info.available.join(', ')} (${info.features.join(' ')})`,
    details: { ...info },
  };
}

/** Attention over two equal keys: the mean of their values. */
async function checkKvOffload(): Promise<Check> {
  const { KvStore } = await import('@magicpig/kv-offload');
  const headDim = 8;
  using store = new KvStore({ layers: 1, kvHeads: 1, queryHeads: 1, headDim, dtype: 'f32', threads: 1 });
  using sequence = store.open();
  const row = (data: Float32Array) => ({ data, offset: 0, stride: headDim });
  const keys = new Float32Array(2 * headDim).fill(1);
  const values = Float32Array.from({ length: 2 * headDim }, (_, i) => (i < headDim ? 1 : 3));
  const output = new Float32Array(2 * headDim);
  const step = store.step([{ sequence, tokens: 2 }]);
  step.append(0, row(keys), row(values));
  step.attend(0, row(keys), row(output));
  for (const [index, value] of output.entries()) {
    const expected = index < headDim ? 1 : 2;
    if (Math.abs(value - expected) > 1e-5) throw new Error(`attention gave ${value} instead of ${expected}`);
  }
  return { name: 'kv-offload', status: 'ok', message: 'loads and attends' };
}

/** A key is found by itself, and its opposite is not. */
async function checkLsh(): Promise<Check> {
  const { SimHashTables } = await import('@magicpig/lsh');
  const dim = 32;
  using tables = new SimHashTables({ heads: 1, dim, bits: 8, tables: 40, seed: 1, center: 'none', threads: 1 });
  const key = Float32Array.from({ length: dim }, (_, i) => ((i * 5) % 11) - 5);
  tables.add(0, Float32Array.from([...key, ...key.map((x) => -x)]));
  const found = [...tables.query(0, key)];
  if (found.length !== 1 || found[0] !== 0) throw new Error(`a query found keys [${found}] instead of [0]`);
  return { name: 'lsh', status: 'ok', message: 'loads, hashes and finds' };
}
