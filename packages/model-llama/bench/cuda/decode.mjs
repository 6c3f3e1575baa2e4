import { resolveAttention } from '../../dist/index.js';
import { DecodeRun } from './decode-run.mjs';
import { HostContexts } from './host-contexts.mjs';

/** Milliseconds a token that are the goal, (10, 150) at 96K tokens for Llama-3.1-8B. */
const GOAL_MS = 12;

/** One sequence: `magicpig`, `sketch` drawn on the device, and `dense` with all keys there, and where a token's time goes. */
export function measureDecode(machine, context) {
  const run = new DecodeRun(machine, context);
  console.log(`\n${context} tokens of context, one sequence`);
  const contexts = new HostContexts(machine, run.shapes, {
    tokens: context,
    policies: ['magicpig', 'sketch'],
    wanted: 1,
  });
  const rows = [];
  const { K, L } = resolveAttention({ policy: 'magicpig' }, machine.config.layers);
  console.log(`magicpig (${K}, ${L})`);
  const selectMs = contexts.selectMs(run.shapes);
  for (const row of run.sampled(contexts, 'magicpig', [1])) rows.push({ policy: 'magicpig', K, L, ...row, selectMs });
  console.log('sketch');
  for (const row of run.sampled(contexts, 'sketch', [1], { sketches: true })) rows.push({ policy: 'sketch', ...row });
  console.log('dense');
  if (run.mostDense(machine.deviceBytes) < 1) console.log('  does not fit');
  else for (const row of run.dense([1])) rows.push({ policy: 'dense', ...row });
  contexts[Symbol.dispose]();
  const dense = rows.find(({ policy }) => policy === 'dense');
  for (const row of rows) {
    const ratio = dense ? `, ${(dense.stepMs / row.stepMs).toFixed(2)}x dense` : '';
    const select = row.selectMs === undefined ? '' : `, of it ${row.selectMs.toFixed(2)} choosing keys (estimate)`;
    console.log(`${row.policy}: ${row.stepMs.toFixed(2)} ms a token${select}${ratio}`);
  }
  console.log(`goal for magicpig: ${GOAL_MS} ms`);
  return { context, goalMs: GOAL_MS, rows };
}
