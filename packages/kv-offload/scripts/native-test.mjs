// Builds the native tests without Node's headers and runs them on every path of this CPU:
//   node scripts/native-test.mjs [address,undefined | thread]   with sanitizers
//   node scripts/native-test.mjs aarch64                        the NEON path, cross-compiled and run by qemu-user
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const mode = process.argv[2] ?? '';
const cross = mode === 'aarch64';
const sanitizers = cross ? '' : mode;
const build = join(root, 'build', mode ? `native-test-${mode.replace(',', '-')}` : 'native-test');

run('cmake', [
  ...['-S', root, '-B', build, '-DMAGICPIG_NATIVE_TESTS=ON'],
  `-DMAGICPIG_SANITIZE=${sanitizers}`,
  `-DCMAKE_BUILD_TYPE=${sanitizers ? 'RelWithDebInfo' : 'Release'}`,
  ...(cross
    ? [
        '-DCMAKE_SYSTEM_NAME=Linux',
        '-DCMAKE_SYSTEM_PROCESSOR=aarch64',
        '-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++',
        '-DCMAKE_EXE_LINKER_FLAGS=-static',
      ]
    : []),
]);
run('cmake', ['--build', build, '-j', '2']);
const program = join(build, 'kv-offload-test');
for (const isa of cross ? ['neon', 'portable'] : ['avx512bf16', 'avx512', 'avx2', 'portable']) {
  run(cross ? 'qemu-aarch64' : program, cross ? [program] : [], { MAGICPIG_ISA: isa });
}

function run(command, args, env = {}) {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit', env: { ...process.env, ...env } });
  if (error) {
    console.error(`Could not run ${command}: ${error.message}`);
    process.exit(1);
  }
  if (status !== 0) process.exit(status ?? 1);
}
