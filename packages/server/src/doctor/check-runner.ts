import { type Check, guarded } from './check.js';

/** Everything together: a tiny model with random weights answers, once with each policy. */
export async function checkRunner(): Promise<Check> {
  return guarded('model-llama', async () => {
    const { loadLlama } = await import('@magicpig/model-llama');
    await using model = await loadLlama('random:tiny', { maxSequences: 1, cacheBytes: 2 ** 26 });
    const maxTokens = 4;
    // A window short enough that the prompt has keys to draw.
    const sampled = { minContext: 0, sink: 0, window: 4 };
    const policies = [
      { policy: 'dense' },
      { policy: 'magicpig', ...sampled },
      { policy: 'sketch', ...sampled },
    ] as const;
    for (const attention of policies) {
      const events = model.generate('What is the capital of France?', { maxTokens, ignoreEos: true, attention });
      let answered = 0;
      for await (const event of events) if (event.type === 'token') answered += 1;
      if (answered !== maxTokens)
        throw new Error(`${attention.policy} answered ${answered} tokens instead of ${maxTokens}`);
    }
    return { name: 'model-llama', status: 'ok', message: `a tiny random model answers (${model.info.description})` };
  });
}
