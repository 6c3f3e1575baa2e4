import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Runs a program in this package's folder, where it imports the built package by its name. */
const run = (args: string[], input?: string) => execFileSync(process.execPath, args, { cwd: root, input }).toString();

describe('the README', () => {
  const blocks = readFileSync(`${root}README.md`, 'utf8').matchAll(/```js\n([\s\S]*?)```/g);
  it.each(Array.from(blocks, ([, code]) => [code!]))('runs: %s', (code) => {
    expect(run(['--input-type=module'], code)).not.toMatch(/NaN|undefined/);
  });
});

describe('examples', () => {
  it.each(readdirSync(`${root}examples`))('%s runs', (file) => {
    expect(run([`examples/${file}`])).not.toMatch(/NaN|undefined/);
  });
});
