// Brings a fresh clone to a built workspace: installs with the pinned pnpm (through npx, nothing global) and builds
// with turbo, which skips what is already built. `npm start` and `npm test` run it first; a package's name as argument
// builds only that package and what it depends on.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const PNPM = 'pnpm@10.34.9'; // the newest line that runs on Node 20
const root = join(dirname(fileURLToPath(import.meta.url)), '..');
process.chdir(root);

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  fail(`MagicPIG needs Node 20.19 or newer; this is ${process.version}.`);
}
for (const [tool, hint] of [
  ['cmake', 'apt-get install cmake, brew install cmake'],
  [process.env.CXX ?? 'c++', 'apt-get install g++, xcode-select --install'],
]) {
  if (spawnSync(tool, ['--version'], { stdio: 'ignore' }).error) {
    fail(`MagicPIG builds native code and found no \`${tool}\` on PATH (${hint}).`);
  }
}

// pnpm itself takes seconds to find out that nothing changed; a stamp of the lockfile answers at once.
const stamp = join(root, 'node_modules', '.magicpig-installed');
const digest = createHash('sha256')
  .update(readFileSync(join(root, 'pnpm-lock.yaml')))
  .digest('hex');
if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== digest) {
  console.log('Installing dependencies (pnpm, through npx) ...');
  run('npx', ['--yes', PNPM, 'install', '--frozen-lockfile', '--reporter=append-only']);
  writeFileSync(stamp, digest);
}
const only = process.argv[2];
console.log(`Building ${only ?? 'all packages'} (turbo) ...`);
run(join(root, 'node_modules', '.bin', 'turbo'), [
  'run',
  'build',
  ...(only ? [`--filter=${only}...`] : []),
  '--output-logs=errors-only',
  '--no-update-notifier',
]);

function run(command, args) {
  // turbo runs each package's script through pnpm, which is a devDependency: it need not be installed globally.
  const PATH = `${join(root, 'node_modules', '.bin')}${delimiter}${process.env.PATH}`;
  const env = { ...process.env, PATH, TURBO_TELEMETRY_DISABLED: '1', CI: process.env.CI ?? '', DO_NOT_TRACK: '1' };
  const result = spawnSync(command, args, { stdio: 'inherit', env });
  if (result.error) fail(`Could not run ${command}: ${result.error.message}`);
  if (result.status !== 0) process.exit(result.status ?? 1);
}

function fail(message) {
  console.error(message);
  process.exit(1);
}
