// Builds the native tests (no Node headers needed) and runs them; the argument names sanitizers: address,undefined or thread.
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const sanitizers = process.argv[2] ?? '';
const build = join(root, 'build', sanitizers ? `native-test-${sanitizers.replace(',', '-')}` : 'native-test');

run('cmake', [
  '-S',
  root,
  '-B',
  build,
  '-DMAGICPIG_NATIVE_TESTS=ON',
  '-DCMAKE_BUILD_TYPE=Release',
  `-DMAGICPIG_SANITIZE=${sanitizers}`,
]);
run('cmake', ['--build', build, '--parallel', '2']);
run(join(build, 'kernels-test'), []);

function run(command, args) {
  const result = spawnSync(command, args, { stdio: 'inherit' });
  if (result.error) console.error(`Could not run ${command}: ${result.error.message}`);
  if (result.status !== 0) process.exit(result.status ?? 1);
}
