import type { Engine } from './engine.js';
import { loadNativeEngine } from './native-engine.js';

let loaded: Engine | undefined;

/** The engine of this process. */
export function engine(): Engine {
  loaded ??= loadNativeEngine();
  return loaded;
}
