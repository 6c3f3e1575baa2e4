// Builds and runs the native tests without Node's headers: `node scripts/native-test.mjs [address,undefined | thread]`.
import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const sanitizers = process.argv[2] ?? '';
const build = join(root, 'build', sanitizers ? `native-test-${sanitizers.replace(',', '-')}` : 'native-test');

run('cmake', [
  ...['-S', root, '-B', build, '-DMAGICPIG_NATIVE_TESTS=ON'],
  `-DMAGICPIG_SANITIZE=${sanitizers}`,
  `-DCMAKE_BUILD_TYPE=${sanitizers ? 'RelWithDebInfo' : 'Release'}`,
]);
run('cmake', ['--build', build, '-j', String(Math.min(2, availableParallelism()))]);
for (const isa of ['avx512bf16', 'avx512', 'avx2', 'portable']) {
  run(join(build, 'kv-offload-test'), [], { MAGICPIG_ISA: isa });
}

function run(command, args, env = {}) {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit', env: { ...process.env, ...env } });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}
