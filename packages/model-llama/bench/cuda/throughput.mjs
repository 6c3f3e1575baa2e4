import { DecodeRun } from './decode-run.mjs';
import { HostContexts } from './host-contexts.mjs';

/** Tokens a second of `magicpig` and of `dense` at equal limits on device memory, the best batch of each. */
export function measureThroughput(machine, context, sizes) {
  const run = new DecodeRun(machine, context);
  console.log(`\n${context} tokens of context`);
  const caps = machine.caps(sizes);
  const limits = caps.map(({ vramGiB, bytes }) => ({
    vramGiB,
    dense: run.mostDense(bytes),
    magicpig: run.mostSampled(bytes),
  }));
  console.log('dense');
  const dense = measure(
    limits.map(({ dense }) => dense),
    (batches) => run.dense(batches),
  );
  const most = limits.map(({ magicpig }) => magicpig);
  const wanted = Math.max(0, ...most);
  console.log('magicpig');
  let distinctContexts = 0;
  const magicpig = measure(most, (batches) => {
    const contexts = new HostContexts(machine, run.shapes, { tokens: context, policies: ['magicpig'], wanted });
    distinctContexts = contexts.contexts.length;
    const results = run.sampled(contexts, 'magicpig', batches);
    contexts[Symbol.dispose]();
    return results;
  });
  const rows = limits.map(({ vramGiB, ...limit }) => {
    const best = { dense: bestOf(dense, limit.dense), magicpig: bestOf(magicpig, limit.magicpig) };
    const ratio = best.magicpig && best.dense ? best.magicpig.tokensPerSecond / best.dense.tokensPerSecond : null;
    return { vramGiB, ...best, ratio };
  });
  for (const { vramGiB, ratio } of rows) {
    console.log(`at ${vramGiB} GiB: magicpig over dense ${ratio === null ? 'not both fit' : `${ratio.toFixed(2)}x`}`);
  }
  return { context, distinctContexts, rows, batches: { dense, magicpig } };
}

/** Batches of powers of two and of what each limit allows. */
function measure(limits, run) {
  const most = Math.max(0, ...limits);
  if (most === 0) {
    console.log('  does not fit');
    return [];
  }
  const powers = Array.from({ length: Math.floor(Math.log2(most)) + 1 }, (_, i) => 2 ** i);
  const sizes = new Set([...powers, ...limits.filter((limit) => limit > 0)]);
  return run([...sizes].sort((a, b) => a - b));
}

/** The fastest of the batches of at most so many sequences; null when there is none. */
function bestOf(batches, limit) {
  const fitting = batches.filter(({ sequences }) => sequences <= limit);
  return fitting.reduce((a, b) => (b.tokensPerSecond > (a?.tokensPerSecond ?? 0) ? b : a), null);
}
