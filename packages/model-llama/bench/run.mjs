// `pnpm bench`: the measurements of a model's speed and exactness, one after the other; arguments go to all of them.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

for (const script of ['perplexity.mjs', 'sampling-error.mjs', 'min-context.mjs', 'llama-cpp.mjs']) {
  const path = fileURLToPath(new URL(script, import.meta.url));
  const { status } = spawnSync(process.execPath, [path, ...process.argv.slice(2)], { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}
