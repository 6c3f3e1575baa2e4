// Builds the programs that need no Node, without CUDA, and runs the emulated kernels-test; under sanitizers when they are named:
//   node scripts/native-test.mjs [address,undefined] [arguments of kernels-test]
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const [first, ...rest] = process.argv.slice(2);
const sanitize = first !== undefined && !first.startsWith('-') ? first : '';
const options = sanitize === '' && first !== undefined ? [first, ...rest] : rest;
const folder = `${root}build/${sanitize === '' ? 'native-test' : `native-test-${sanitize.replaceAll(',', '-')}`}`;

const run = (command, args) => execFileSync(command, args, { cwd: root, stdio: 'inherit' });
run('cmake', [
  '-S',
  '.',
  '-B',
  folder,
  '-DMAGICPIG_CUDA=OFF',
  '-DMAGICPIG_WERROR=ON',
  `-DMAGICPIG_SANITIZE=${sanitize}`,
]);
run('cmake', ['--build', folder, '--parallel', '2', '--target', 'kernels-emulated-test']);
run(`${folder}/Release/kernels-emulated-test`, sanitize === '' ? options : ['--quick', ...options]);
