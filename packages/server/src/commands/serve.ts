import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { Command, Option } from 'commander';
import type { FastifyServerOptions } from 'fastify';
import { createServer } from '../create-server.js';
import { banner } from './banner.js';
import { checkPort, listenError } from './check-port.js';
import type { CommandContext } from './command-context.js';
import { loadWithProgress } from './load-with-progress.js';
import { LogStream } from './log-stream.js';
import {
  type AttentionFlags,
  addAttentionOptions,
  addModelOptions,
  addSamplingOptions,
  attentionOf,
  integer,
  loadOptionsOf,
  type ModelFlags,
  type SamplingFlags,
  samplingOf,
} from './options.js';

interface ServeFlags extends ModelFlags, AttentionFlags, SamplingFlags {
  host: string;
  port: number;
  apiKey?: string;
  cors?: string[];
  maxQueue?: number;
  logLevel: string;
  grace: number;
}

/** `magicpig serve`: loads a model and answers over HTTP until Ctrl-C. */
export function serveCommand(context: CommandContext): Command {
  const command = new Command('serve')
    .description('serve a model over an OpenAI-compatible HTTP API, with a chat page at /')
    .option('--host <address>', 'address to listen on', '127.0.0.1')
    .option('-p, --port <number>', 'port to listen on; 0 takes any that is free', integer(0, 65_535), 8080)
    .option('--api-key <key>', 'refuse requests without this key (default: MAGICPIG_API_KEY, or no key)')
    .option('--cors <origins...>', 'origins whose pages may call the server, or *')
    .option('--max-queue <n>', 'requests that may wait; more are refused with status 429 (default: 256)', integer(0))
    .option('--grace <seconds>', 'time that running requests get to finish on Ctrl-C', integer(0), 5)
    .addOption(
      new Option('--log-level <level>', 'info writes one line for each request that generates or fails')
        .choices(['debug', 'info', 'warn', 'error', 'silent'])
        .default('info'),
    );
  addSamplingOptions(addAttentionOptions(addModelOptions(command)));
  return command.action(() => serve(context, command.opts<ServeFlags>()));
}

async function serve(context: CommandContext, flags: ServeFlags): Promise<void> {
  const { host, port } = flags;
  const attention = attentionOf(flags);
  const apiKey = flags.apiKey ?? process.env.MAGICPIG_API_KEY;
  await checkPort(host, port);
  await using model = await loadWithProgress(context, flags.model, {
    ...loadOptionsOf(flags),
    ...(flags.maxQueue === undefined ? {} : { maxQueue: flags.maxQueue }),
  });
  const logger: FastifyServerOptions['logger'] =
    flags.logLevel === 'silent' ? false : { level: flags.logLevel, stream: new LogStream(context.stdout) };
  const server = createServer({
    model,
    defaults: { attention, sampling: samplingOf(flags) },
    ...(apiKey === undefined ? {} : { apiKey }),
    ...(flags.cors === undefined ? {} : { cors: flags.cors.includes('*') ? '*' : flags.cors }),
    graceMs: flags.grace * 1000,
    logger,
  });
  try {
    server.log.level = 'warn'; // the banner below says where it listens
    await server.listen({ host, port });
    server.log.level = flags.logLevel;
  } catch (error) {
    throw listenError(error, host, port);
  }
  const bound = server.server.address() as AddressInfo;
  context.stdout.write(banner(model.info, attention, { host, port: bound.port, apiKey: apiKey !== undefined }));
  if (!context.signal.aborted) await once(context.signal, 'abort');
  context.stderr.write('\nShutting down; once more Ctrl-C ends it at once.\n');
  await server.close();
  if (flags.profile) context.stderr.write(`\n${(await model.profile()).table}`);
}
