import { createRequire } from 'node:module';
import { Command, CommanderError } from 'commander';
import type { CommandContext } from './commands/command-context.js';
import { CommandError } from './commands/command-error.js';
import { doctorCommand } from './commands/doctor.js';
import { generateCommand } from './commands/generate.js';
import { serveCommand } from './commands/serve.js';

const { version } = createRequire(import.meta.url)('../package.json') as { version: string };

/** Exit code of a program ended by Ctrl-C: 128 + SIGINT. */
const INTERRUPTED = 130;

/**
 * Runs the `magicpig` command.
 * @param args without the names of node and of the script.
 * @returns the exit code.
 */
export async function main(args: string[], context: CommandContext): Promise<number> {
  let exitCode = 0;
  const program = new Command('magicpig')
    .description('Long-context decoding with attention sampled from the KV cache')
    .version(version)
    .addCommand(serveCommand(context))
    .addCommand(generateCommand(context))
    .addCommand(doctorCommand(context, (code) => (exitCode = code)));
  for (const command of [program, ...program.commands]) {
    command.exitOverride().showHelpAfterError('(--help lists the options)');
    command.configureOutput({
      writeOut: (text) => context.stdout.write(text),
      writeErr: (text) => context.stderr.write(text),
    });
  }
  try {
    await program.parseAsync(args, { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode; // commander has said it already
    if (context.signal.aborted) return INTERRUPTED;
    const { message, stack } = error instanceof Error ? error : new Error(String(error));
    context.stderr.write(`${isMeantForUsers(error) ? `magicpig: ${message}` : stack}\n`);
    return 1;
  }
}

/** Errors whose message is all that the user needs. */
function isMeantForUsers(error: unknown): boolean {
  const code = (error as { code?: unknown }).code;
  return error instanceof CommandError || (typeof code === 'string' && MODEL_ERRORS.has(code));
}

/** Codes of model-llama's and the addons' errors that tell what to do; others are bugs, and their stack is wanted. */
const MODEL_ERRORS = new Set([
  'CHECKPOINT',
  'MODEL_NOT_FOUND',
  'CHAT_TEMPLATE',
  'INVALID_REQUEST',
  'CONTEXT_TOO_LONG',
  'CACHE_TOO_SMALL',
  'MODEL_CLOSED',
  'MAP_FILE',
  'NATIVE_LOAD',
  'OUT_OF_MEMORY',
]);
