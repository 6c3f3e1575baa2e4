import { defineConfig } from 'vitest/config';

export default defineConfig({ test: { name: '@magicpig/server', include: ['test/**/*.test.ts'] } });
