import type { EngineTables } from './engine.js';
import type { SimHashProjection } from './simhash-projection.js';

/** Shape and size of the tables of one head. */
export interface SimHashStats {
  vectors: number;
  /** Vectors in each sorted segment; a query looks into each of them. */
  segments: number[];
  /** Vectors that are not in a segment yet; a query compares their codes one by one. */
  listed: number;
  /** Share of the buckets of all tables that hold a vector. */
  occupancy: number;
  /** Vectors in the fullest bucket. */
  largestBucket: number;
  /**
   * How much likelier two vectors share a bucket of a table than with evenly spread codes: 1 when the buckets are filled
   * evenly, 2^bits when all vectors share one. Queries get slower in proportion; centring or more bits lower it.
   */
  skew: number;
  /** Bytes held, by part, whole where forks share them. Of a viewed file, those that lie in the file. */
  bytes: {
    /** Ids sorted by bucket. */
    ids: number;
    /** Where buckets start. */
    starts: number;
    /** Codes of listed vectors. */
    codes: number;
    /** Kept vectors. */
    vectors: number;
    /** Inverse norms and the centre. */
    norms: number;
  };
}

export function headStats(tables: EngineTables, head: number, projection: SimHashProjection): SimHashStats {
  const stats = tables.stats(head);
  const n = tables.length(head);
  const buckets = 2 ** projection.bits;
  const sharing = (stats.squares / projection.tables - n) / (n * (n - 1));
  return {
    vectors: n,
    segments: Array.from(stats.segments),
    listed: stats.listed,
    occupancy: stats.occupied / (projection.tables * buckets),
    largestBucket: stats.largest,
    skew: n > 1 ? sharing * buckets : 1,
    bytes: {
      ids: stats.idBytes,
      starts: stats.startBytes,
      codes: stats.codeBytes,
      vectors: stats.vectorBytes,
      norms: stats.normBytes,
    },
  };
}
