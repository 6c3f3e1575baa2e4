import { type Check, guarded } from './check.js';

/** Everything together: a tiny model with random weights answers, once with each policy. */
export async function checkRunner(): Promise<Check> {
  return guarded('model-llama', async () => {
    const { loadLlama } = await import('@magicpig/model-llama');
    await using model = await loadLlama('random:tiny', { maxSequences: 1, cacheBytes: 2 ** 26 });
    const maxTokens = 4;
    for (const attention of [{ policy: 'dense' }, { policy: 'magicpig', minContext: 0 }] as const) {
      const events = model.generate('What is the capital of France?', { maxTokens, ignoreEos: true, attention });
      let answered = 0;
      for await (const event of events) if (event.type === 'token') answered += 1;
      if (answered !== maxTokens)
        throw new Error(`${attention.policy} answered ${answered} tokens instead of ${maxTokens}`);
    }
    return { name: 'model-llama', status: 'ok', message: `a tiny random model answers (${model.info.description})` };
  });
}
