import type { ServerResponse } from 'node:http';

/** Why a generation was stopped from outside: its client left. */
export class ClientGoneError extends Error {
  override readonly name = 'ClientGoneError';
}

/** The generations in flight, each with the means to end it. */
export class RunningRequests {
  readonly #controllers = new Set<AbortController>();
  readonly #onEmpty: (() => void)[] = [];

  /** A signal for a new generation: aborted when its client goes away or by {@link end}. */
  open(response: ServerResponse): AbortSignal {
    const controller = new AbortController();
    const gone = () => controller.abort(new ClientGoneError('The client went away.'));
    if (response.closed) {
      gone();
      return controller.signal;
    }
    this.#controllers.add(controller);
    response.once('close', () => {
      this.#controllers.delete(controller);
      if (this.#controllers.size === 0) for (const resolve of this.#onEmpty.splice(0)) resolve();
      if (!response.writableFinished) gone();
    });
    return controller.signal;
  }

  /**
   * Resolves when every generation has ended and its response is written: by itself within `graceMs`, or because of an
   * abort with `reason`. Gives up on those that do not end within `abortMs` more.
   */
  async end(reason: Error, { graceMs, abortMs }: { graceMs: number; abortMs: number }): Promise<void> {
    if (await this.#emptyWithin(graceMs)) return;
    for (const controller of this.#controllers) controller.abort(reason);
    await this.#emptyWithin(abortMs);
  }

  #emptyWithin(milliseconds: number): Promise<boolean> {
    if (this.#controllers.size === 0) return Promise.resolve(true);
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), milliseconds);
      this.#onEmpty.push(() => {
        clearTimeout(timer);
        resolve(true);
      });
    });
  }
}
