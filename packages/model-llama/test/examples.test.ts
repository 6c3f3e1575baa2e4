// The examples use the built package: build it before running these.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { describeRealModel } from './real-model.js';

const ESTHER = fileURLToPath(new URL('../../../benchmarks/texts/esther.txt', import.meta.url));

/** Runs an example to its end; what it wrote. */
async function run(example: string, args: string[], input = ''): Promise<string> {
  const file = fileURLToPath(new URL(`../examples/${example}.mjs`, import.meta.url));
  const child = spawn(process.execPath, [file, ...args]);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (output += data));
  child.stdin.end(input);
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`${example} ended with ${code}:\n${output}`);
  return output;
}

describe('examples, with random weights', () => {
  it('chat: every turn goes on from the one before', async () => {
    const output = await run('chat', ['random:tiny'], 'Hello\nAnd now?\n');
    const known = [...output.matchAll(/\[(\d+) tokens read, (\d+) of them known; (\d+) written\]/g)].map((match) =>
      match.slice(1).map(Number),
    );
    expect(known.length).toBe(2);
    expect(known[0]![1]).toBe(0);
    expect(known[1]![1]).toBeGreaterThan(0);
  });

  it('long document: the second answer knows the document', async () => {
    const output = await run('long-document', ['random:tiny', ESTHER, 'Who is the queen?']);
    const lines = [...output.matchAll(/(\d+) prompt tokens, (\d+) of them known/g)].map(([, all, known]) => [
      all,
      known,
    ]);
    expect(lines.length).toBe(2);
    expect(lines[0]![1]).toBe('0');
    expect(Number(lines[1]![1])).toBeGreaterThan(Number(lines[1]![0]) - 70);
  });

  it('custom policy: more keys, more read', async () => {
    const output = await run('custom-policy', ['random:tiny']);
    const read = [...output.matchAll(/\[(\d+) keys a head: (\d+)% read, (\d+) steps\]/g)].map((match) =>
      match.slice(1).map(Number),
    );
    expect(read.map(([keys]) => keys)).toEqual([16, 256]);
    expect(read[0]![1]).toBeLessThan(read[1]![1]!);
    expect(read[0]![2]).toBeGreaterThan(0);
  });
});

describeRealModel('examples, with SmolLM2', (path) => {
  it('chat', async () => {
    const output = await run('chat', [path], 'What is the capital of France?\n');
    expect(output).toMatch(/capital of France is Paris/);
  });
});
