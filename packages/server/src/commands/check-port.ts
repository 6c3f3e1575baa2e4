import { createServer } from 'node:net';
import { CommandError } from './command-error.js';

/**
 * Finds out that an address cannot be listened on before minutes go into loading a model.
 * @throws CommandError that says which address, why, and what to pass instead.
 */
export async function checkPort(host: string, port: number): Promise<void> {
  const probe = createServer();
  await new Promise<void>((resolve, reject) => {
    probe.once('error', (error) => reject(listenError(error, host, port)));
    probe.listen({ host, port, exclusive: true }, () => probe.close(() => resolve()));
  });
}

/** What to tell about a failure to listen. */
export function listenError(error: unknown, host: string, port: number): unknown {
  switch ((error as NodeJS.ErrnoException).code) {
    case 'EADDRINUSE':
      return new CommandError(
        `Port ${port} on ${host} is in use by another program. Pass another one, as --port ${port + 1 > 65_535 ? 0 : port + 1}, ` +
          'or 0 for any that is free.',
      );
    case 'EACCES':
      return new CommandError(`This user may not listen on port ${port} of ${host}. Pass a --port of 1024 or more.`);
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return new CommandError(
        `${host} is not an address of this machine. Pass --host 127.0.0.1 (only this machine) or 0.0.0.0 (every interface).`,
      );
    default:
      return error;
  }
}
