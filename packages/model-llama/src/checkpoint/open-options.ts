import type { LoadProgress } from '../api.js';

/** Options of {@link openCheckpoint}. */
export interface OpenCheckpointOptions {
  /** Called while files are downloaded (stage `download`), with bytes. */
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Aborts downloading; what has arrived is kept for the next time where the source can resume. */
  signal?: AbortSignal | undefined;
  /** Where downloads are kept; default the environment's MAGICPIG_CACHE, or the user's cache directory. */
  cacheDir?: string | undefined;
  /** Seed of a `random:` model's weights. Default 0. */
  randomSeed?: number | undefined;
}
