#!/usr/bin/env node
import('../dist/cli.js').catch((error) => {
  if (error.code === 'ERR_MODULE_NOT_FOUND' && String(error.message).includes('dist/cli.js')) {
    console.error(
      'magicpig is not built yet. Run `npm run build` in the repository root (or `npm start`, which does).',
    );
  } else {
    console.error(error);
  }
  process.exitCode = 1;
});
