import { describe, expect, it } from 'vitest';
import { InvalidArgumentError, SimHashTables } from '../src/index.js';

// What only native code can give and take; on-typescript.test.ts leaves this file out.
describe('handles of native code', () => {
  it('are one selector for all tables of an object', () => {
    using tables = new SimHashTables({ heads: 2, dim: 4, bits: 3, tables: 5, threads: 1 });
    expect(tables.selector).toBe(tables.selector);
    using read = SimHashTables.fromBuffer(tables.toBuffer());
    expect(read.selector).not.toBe(tables.selector);
  });

  it('are refused as a pool when they are none', () => {
    expect(() => new SimHashTables({ heads: 1, dim: 4, pool: {} })).toThrow(InvalidArgumentError);
  });
});
