/** Options of {@link openCheckpoint}. */
export interface OpenCheckpointOptions {
  /** Called while files are downloaded, with bytes. `total` is 0 where a source does not say it. */
  onProgress?: ((progress: DownloadProgress) => void) | undefined;
  /** Aborts downloading; what has arrived is kept for the next time where the source can resume. */
  signal?: AbortSignal | undefined;
  /** Where downloads are kept; default the environment's MAGICPIG_CACHE, or the user's cache directory. */
  cacheDir?: string | undefined;
  /** Seed of a `random:` model's weights. Default 0. */
  randomSeed?: number | undefined;
}

/** How far a download is. */
export interface DownloadProgress {
  /** What is being fetched: a file of a hub repository, a package. */
  item: string;
  /** Bytes. */
  done: number;
  total: number;
}
