import { Command } from 'commander';
import { type Check, guarded } from '../doctor/check.js';
import { checkAddons } from '../doctor/check-addons.js';
import { checkCuda } from '../doctor/check-cuda.js';
import { checkMachine } from '../doctor/check-machine.js';
import { checkModelCache } from '../doctor/check-model-cache.js';
import { checkRunner } from '../doctor/check-runner.js';
import type { CommandContext } from './command-context.js';

const MARKS: Record<Check['status'], string> = { ok: 'ok     ', info: '-      ', warning: 'warning', error: 'BROKEN ' };

/** `magicpig doctor`: what the machine offers and whether every part works. */
export function doctorCommand(context: CommandContext, setExitCode: (code: number) => void): Command {
  const command = new Command('doctor')
    .description('say what this machine offers and check every native addon')
    .option('--cache-dir <folder>', "where downloads are kept (default: the user's cache folder, or MAGICPIG_CACHE)")
    .option('--json', 'print the findings as JSON');
  return command.action(async () => {
    const flags = command.opts<{ cacheDir?: string; json?: boolean }>();
    const checks = [
      ...checkMachine(),
      ...(await checkAddons()),
      await checkRunner(),
      await guarded('cuda', checkCuda),
      await guarded('model cache', () => checkModelCache(flags.cacheDir)),
    ];
    const broken = checks.filter(({ status }) => status === 'error');
    setExitCode(broken.length === 0 ? 0 : 1);
    if (flags.json) {
      context.stdout.write(`${JSON.stringify({ ok: broken.length === 0, checks }, null, 2)}\n`);
      return;
    }
    for (const { name, status, message } of checks) {
      context.stdout.write(`${MARKS[status]} ${name.padEnd(12)} ${message.replaceAll('\n', `\n${' '.repeat(21)}`)}\n`);
    }
    const verdict = broken.length === 0 ? 'Everything works.' : `Broken: ${broken.map(({ name }) => name).join(', ')}.`;
    context.stdout.write(`\n${verdict}\n`);
  });
}
