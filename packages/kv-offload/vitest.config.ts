import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: { name: '@magicpig/kv-offload', include: ['test/**/*.test.ts'], testTimeout: 60_000 },
});
