import type { ProgressStream } from '../progress.js';

/** Where pino's lines go: as they are when a program reads them, as time and message on a terminal. */
export class LogStream {
  readonly #output: ProgressStream;

  constructor(output: ProgressStream) {
    this.#output = output;
  }

  write(line: string): void {
    if (!this.#output.isTTY) {
      this.#output.write(line);
      return;
    }
    const { time, msg, err } = JSON.parse(line) as { time: number; msg?: string; err?: { stack?: string } };
    const clock = new Date(time).toTimeString().slice(0, 8);
    this.#output.write(`${clock} ${msg ?? ''}${err?.stack === undefined ? '' : `\n${err.stack}`}\n`);
  }
}
