// Runs kernels-bench where there is a device: npm run bench -- [--json FILE] [--filter NAME]
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const NO_DEVICE = 77;

const program = fileURLToPath(new URL('../build/Release/kernels-bench', import.meta.url));
if (!existsSync(program)) {
  console.log('kernels-bench was not built: there was no nvcc. Nothing is measured.');
} else {
  const { status } = spawnSync(program, process.argv.slice(2), { stdio: 'inherit' });
  if (status === NO_DEVICE)
    console.log('Nothing is measured without a device; scripts/check-device.sh does it all where there is one.');
  else process.exitCode = status ?? 1;
}
