// The worker is the built one (dist/worker.js): build the package before running these.
import { availability } from '@magicpig/cuda-kernels';
import { expect, it } from 'vitest';
import { loadLlama } from '../src/load-llama.js';

it('a model is loaded onto the device that is there, or the reason is told why none is', async () => {
  const found = availability();
  const loading = loadLlama('random:tiny', { backend: 'cuda' });
  if (!found.available) {
    await expect(loading).rejects.toThrow(found.reason);
    return;
  }
  await using model = await loading;
  expect(model.info.backend).toBe('cuda');
});
