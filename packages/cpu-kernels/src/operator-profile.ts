import type { Ceilings } from './ceilings.js';
import { InvalidArgumentError } from './errors.js';
import type { WeightFormat } from './weight.js';

/** What one kind of call did, summed over its calls. */
export interface ProfileEntry {
  /** `linear`, `linearGated`, `rope`, ... */
  operator: string;
  /** What tells its calls apart: outputs, inputs and format of a weight. */
  detail: string;
  calls: number;
  /** Rows of activations. */
  rows: number;
  seconds: number;
  /** Bytes that had to be read and written at least: weights, activations, results. */
  bytes: number;
  /** Multiplications and additions. */
  operations: number;
  /** Format of the weights, for products. */
  format?: WeightFormat;
}

/** What {@link OperatorProfile.record} takes: one call. */
export type ProfileCall = Omit<ProfileEntry, 'calls'>;

/**
 * Collects time, bytes and operations of the calls of a backend while it is {@link CpuBackend.profile}. Others may record
 * their own work into the same profile (attention, sampling), so that one table shows a whole step.
 */
export class OperatorProfile {
  readonly #entries = new Map<string, ProfileEntry>();

  /** Adds one call. */
  record(call: ProfileCall): void {
    const { operator, detail, rows, seconds, bytes, operations } = call;
    for (const [name, value] of Object.entries({ rows, seconds, bytes, operations })) {
      if (!Number.isFinite(value) || value < 0) {
        throw new InvalidArgumentError(`profile: ${name} of ${operator} must be a non-negative number, not ${value}`);
      }
    }
    const key = `${operator}\0${detail}`;
    const entry = this.#entries.get(key);
    if (!entry) {
      this.#entries.set(key, { ...call, calls: 1 });
      return;
    }
    entry.calls += 1;
    entry.rows += rows;
    entry.seconds += seconds;
    entry.bytes += bytes;
    entry.operations += operations;
  }

  /** What was recorded, longest first. */
  entries(): ProfileEntry[] {
    return [...this.#entries.values()].map((entry) => ({ ...entry })).sort((a, b) => b.seconds - a.seconds);
  }

  /** Forgets everything. */
  clear(): void {
    this.#entries.clear();
  }

  /**
   * A table for people, longest first: a bar of the time's share, calls, milliseconds, bandwidth and operations a second;
   * with `ceilings` also their shares of what the machine can do.
   */
  table(ceilings?: Ceilings): string {
    const entries = this.entries();
    const total = entries.reduce((sum, { seconds }) => sum + seconds, 0) || 1;
    const rate = (amount: number, seconds: number, ceiling: number | undefined) => {
      const perSecond = seconds > 0 ? amount / seconds : 0;
      const share = ceiling ? ` ${((perSecond / ceiling) * 100).toFixed(0).padStart(3)}%` : '';
      return `${(perSecond / 1e9).toFixed(1).padStart(7)}${share}`;
    };
    const name = (entry: ProfileEntry) => `${entry.operator} ${entry.detail}`.trimEnd();
    const width = Math.max(8, ...entries.map((entry) => name(entry).length));
    const gap = ceilings ? ' '.repeat(5) : '';
    const lines = [`${'operator'.padEnd(width)}  ${' '.repeat(20)}  share    calls         ms     GB/s${gap}  GFLOP/s`];
    for (const entry of entries) {
      const share = entry.seconds / total;
      const peak = entry.format && ceilings?.operations[entry.format];
      lines.push(
        [
          name(entry).padEnd(width),
          '█'.repeat(Math.round(share * 20)).padEnd(20),
          `${(share * 100).toFixed(1).padStart(5)}%`,
          String(entry.calls).padStart(7),
          (entry.seconds * 1e3).toFixed(2).padStart(9),
          rate(entry.bytes, entry.seconds, ceilings?.readBandwidth),
          rate(entry.operations, entry.seconds, peak),
        ].join('  '),
      );
    }
    return lines.join('\n');
  }
}
