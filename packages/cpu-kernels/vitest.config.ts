import { defineConfig } from 'vitest/config';

export default defineConfig({ test: { name: '@magicpig/cpu-kernels', include: ['test/**/*.test.ts'] } });
