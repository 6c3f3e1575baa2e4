import type { Engine } from './engine.js';
import { loadNativeEngine } from './native-engine.js';
import { typescriptEngine } from './typescript-engine.js';

let loaded: Engine | undefined;

/**
 * The engine of this process: the native addon, or TypeScript where that cannot be loaded or the environment variable
 * MAGICPIG_ISA, read once, is `typescript`.
 */
export function engine(): Engine {
  loaded ??= process.env.MAGICPIG_ISA === 'typescript' ? typescriptEngine : nativeOrTypescript();
  return loaded;
}

function nativeOrTypescript(): Engine {
  try {
    return loadNativeEngine();
  } catch (error) {
    process.emitWarning(
      `No native addon for ${process.platform}-${process.arch} could be loaded, so @magicpig/lsh runs in TypeScript: the same results, slowly, and without selectors. ` +
        'With CMake and a C++20 compiler, `npm install cmake-js@8 node-addon-api@8 node-api-headers@1` and ' +
        '`npx cmake-js compile -d node_modules/@magicpig/lsh` build it; MAGICPIG_ISA=typescript makes this message go away. ' +
        `Tried: ${(error as Error).message}`,
      { type: 'MagicPigLshWarning', code: 'MAGICPIG_LSH_NO_ADDON' },
    );
    return typescriptEngine;
  }
}
