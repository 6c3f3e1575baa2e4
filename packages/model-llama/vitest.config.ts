import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    name: '@magicpig/model-llama',
    include: ['test/**/*.test.ts'],
    testTimeout: 120_000,
    hookTimeout: 600_000,
  },
});
