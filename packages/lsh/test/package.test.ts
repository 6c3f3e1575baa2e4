import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));

/** What an application sees: results as numbers, warnings, and whether native code can call the tables. */
const application = `
import { SimHashIndex, SimHashTables } from '@magicpig/lsh';
const warnings = [];
process.on('warning', ({ name, code, message }) => warnings.push({ name, code, message }));
let state = 1;
const next = () => (state = (Math.imul(state, 1664525) + 1013904223) | 0) / 2 ** 31;
const dim = 48;
const index = new SimHashIndex({ dim, bits: 5, tables: 40, center: 'auto' });
index.add(Float32Array.from({ length: 3000 * dim }, next));
const query = Float32Array.from({ length: dim }, next);
const { ids, collisions, probabilities } = index.query(query, { collisions: true, probabilities: true });
const { sum } = index.estimate(query, (_, dot) => Math.exp(dot / 8));
let selector;
try {
  selector = typeof new SimHashTables({ heads: 1, dim }).selector;
} catch (error) {
  selector = error.code;
}
const results = { ids: [...ids], collisions: [...collisions], probabilities: [...probabilities], sum };
setImmediate(() => console.log(JSON.stringify({ results, selector, warnings })));
`;

describe('the packed tarball, installed where there is neither a compiler nor a network', () => {
  const folder = mkdtempSync(join(tmpdir(), 'magicpig-lsh-'));
  const tools = join(folder, 'tools');
  const project = join(folder, 'project');
  const installed = join(project, 'node_modules', '@magicpig', 'lsh');
  const bare = { PATH: tools, HOME: folder };

  beforeAll(() => {
    const kept = existsSync(join(root, 'prebuilds'));
    const pnpm = join(root, '..', '..', 'node_modules', '.bin', 'pnpm');
    execFileSync(pnpm, ['pack', '--pack-destination', folder], { cwd: root, stdio: 'pipe' });
    if (!kept) rmSync(join(root, 'prebuilds'), { recursive: true });
    const tarball = readdirSync(folder).find((name) => name.endsWith('.tgz'))!;

    // A PATH with node and npm alone.
    mkdirSync(tools);
    symlinkSync(process.execPath, join(tools, 'node'));
    const npm = process.env
      .PATH!.split(delimiter)
      .map((each) => join(each, 'npm'))
      .find(existsSync)!;
    symlinkSync(realpathSync(npm), join(tools, 'npm'));

    mkdirSync(project);
    writeFileSync(join(project, 'package.json'), '{ "private": true, "type": "module" }');
    writeFileSync(join(project, 'application.mjs'), application);
    const options = ['--offline', '--no-audit', '--no-fund', '--cache', join(folder, 'cache')];
    execFileSync(join(tools, 'npm'), ['install', ...options, join(folder, tarball)], {
      cwd: project,
      env: bare,
      stdio: 'pipe',
    });
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  const run = (env: Record<string, string> = {}) =>
    JSON.parse(
      execFileSync(join(tools, 'node'), ['application.mjs'], {
        cwd: project,
        env: { ...bare, ...env },
        stdio: 'pipe',
      }).toString(),
    );

  it('has no install script and no dependency that could fail', () => {
    const { scripts, dependencies, optionalDependencies } = JSON.parse(
      readFileSync(join(installed, 'package.json'), 'utf8'),
    );
    for (const name of ['preinstall', 'install', 'postinstall']) expect(scripts).not.toHaveProperty(name);
    expect({ ...dependencies, ...optionalDependencies }).toEqual({});
    expect(existsSync(join(installed, 'binding.gyp'))).toBe(false);
  });

  it('holds examples, headers and sources of the addon, and no tests', () => {
    for (const file of [
      'examples/estimate.mjs',
      'include/magicpig/selector.h',
      'native/binding.cc',
      'CMakeLists.txt',
    ]) {
      expect(existsSync(join(installed, file)), file).toBe(true);
    }
    for (const file of ['test', 'native/test', 'bench', 'src']) {
      expect(existsSync(join(installed, file)), file).toBe(false);
    }
  });

  it('runs natively, and in TypeScript with the same results and one warning when there is no addon', () => {
    const native = run();
    expect(native.results.ids.length).toBeGreaterThan(20);
    expect(native).toMatchObject({ selector: 'object', warnings: [] });

    const asked = run({ MAGICPIG_ISA: 'typescript' });
    expect(asked).toEqual({ results: native.results, selector: 'UNSUPPORTED', warnings: [] });

    rmSync(join(installed, 'prebuilds'), { recursive: true });
    const fallback = run();
    expect(fallback.results).toEqual(native.results);
    expect(fallback.selector).toBe('UNSUPPORTED');
    expect(fallback.warnings).toHaveLength(1);
    const [warning] = fallback.warnings;
    expect(warning).toMatchObject({ name: 'MagicPigLshWarning', code: 'MAGICPIG_LSH_NO_ADDON' });
    // Which platform, which file, what to run.
    expect(warning.message).toContain(`${process.platform}-${process.arch}`);
    expect(warning.message).toContain(join(realpathSync(installed), 'build', 'Release', 'magicpig_lsh.node'));
    expect(warning.message).toContain('npx cmake-js compile');
  });

  it('says why an addon that is there cannot be loaded', () => {
    const folderOfAddon = join(installed, 'build', 'Release');
    mkdirSync(folderOfAddon, { recursive: true });
    writeFileSync(join(folderOfAddon, 'magicpig_lsh.node'), 'not an addon');
    const [warning] = run().warnings;
    expect(warning.message).toMatch(/magicpig_lsh\.node: .+/);
  });
});
