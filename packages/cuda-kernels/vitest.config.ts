import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: { name: '@magicpig/cuda-kernels', include: ['test/**/*.test.ts'], testTimeout: 60_000 },
});
