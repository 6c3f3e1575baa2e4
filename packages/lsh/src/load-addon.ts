import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

/**
 * Loads a Node-API addon: the one built in `root`, or else the one prebuilt for this platform, as pkg-prebuilds-copy names it.
 *
 * @throws Error that says of each file whether it is missing or why it could not be loaded
 */
export function loadAddon(root: string, name: string): unknown {
  const { platform, arch } = process;
  const require = createRequire(import.meta.url);
  const failures: string[] = [];
  const prebuilt = [`${name}-${platform}-${arch}`];
  // One of the two loads, and the other says why not: cheaper and surer than finding out which C library this is.
  if (platform === 'linux') prebuilt.push(`${prebuilt[0]}-musl`);
  for (const file of [
    join(root, 'build', 'Release', `${name}.node`),
    ...prebuilt.map((folder) => join(root, 'prebuilds', folder, 'node-napi-v8.node')),
  ]) {
    if (!existsSync(file)) {
      failures.push(`${file} does not exist`);
      continue;
    }
    try {
      return require(file);
    } catch (error) {
      failures.push(`${file}: ${(error as Error).message}`);
    }
  }
  throw new Error(failures.join('; '));
}
