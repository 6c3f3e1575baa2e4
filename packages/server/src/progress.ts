import { SingleBar } from 'cli-progress';

/** A stream that progress is shown on. */
export type ProgressStream = NodeJS.WritableStream & { isTTY?: boolean };

/** Between two plain lines of one stage, at least this share of it has passed. */
const PLAIN_LINE_SHARE = 0.25;

/** Progress of one stage after another: a bar on a terminal, a few plain lines elsewhere. */
export class Progress implements Disposable {
  readonly #stream: ProgressStream;
  #bar: SingleBar | undefined;
  #label: string | undefined;
  #printedShare = 0;

  constructor(stream: ProgressStream) {
    this.#stream = stream;
  }

  /**
   * Shows how far a stage is; a new label starts a new bar.
   * @param format writes the two numbers for people; plain integers by default.
   */
  update(label: string, done: number, total: number, format: (value: number) => string = String): void {
    if (label !== this.#label) this.#start(label, total, format);
    if (this.#bar) {
      this.#bar.setTotal(total);
      this.#bar.update(done);
      return;
    }
    const share = total > 0 ? done / total : 1;
    if (share >= this.#printedShare + PLAIN_LINE_SHARE || (share >= 1 && this.#printedShare < 1)) {
      this.#printedShare = share;
      this.#stream.write(`${label}: ${format(done)} of ${format(total)} (${Math.floor(100 * share)}%)\n`);
    }
  }

  /** Ends the bar that is shown, if one is. */
  [Symbol.dispose](): void {
    this.#bar?.stop();
    this.#bar = undefined;
    this.#label = undefined;
  }

  #start(label: string, total: number, format: (value: number) => string): void {
    this[Symbol.dispose]();
    this.#label = label;
    this.#printedShare = 0;
    if (!this.#stream.isTTY) return;
    this.#bar = new SingleBar({
      stream: this.#stream,
      format: `${label} {bar} {percentage}%  {value} / {total}`,
      formatValue: (value, _options, type) => (type === 'value' || type === 'total' ? format(value) : String(value)),
      barCompleteChar: '\u2588',
      barIncompleteChar: '\u2591',
      barsize: 30,
      hideCursor: true,
      stopOnComplete: false,
    });
    this.#bar.start(total, 0);
  }
}
