import { main } from './main.js';

// The first signal asks for a clean end, the second one does not ask.
const controller = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    if (controller.signal.aborted) process.exit(128 + (signal === 'SIGINT' ? 2 : 15));
    controller.abort(new Error(`stopped by ${signal}`));
  });
}
// A reader that has left, as in `magicpig generate ... | head`, ends the program quietly.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));

process.exitCode = await main(process.argv.slice(2), {
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  signal: controller.signal,
  loadModel: async (source, options) => {
    const { loadLlama } = await import('@magicpig/model-llama');
    return await loadLlama(source, options);
  },
});

// Everything is closed now. Should something still hold the process, it does not get to.
const EXIT_TIMEOUT_MS = 2000;
setTimeout(() => process.exit(), EXIT_TIMEOUT_MS).unref();
