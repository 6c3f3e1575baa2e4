import type { AttentionOptions, ModelInfo } from '@magicpig/model-llama';
import { formatBytes } from '../format-bytes.js';

/** What `serve` prints once it listens. */
export function banner(
  info: ModelInfo,
  attention: AttentionOptions,
  address: { host: string; port: number; apiKey: boolean },
): string {
  const { layers, queryHeads, kvHeads, headDim } = info.config;
  const anyHost = address.host === '0.0.0.0' || address.host === '::';
  const host = anyHost ? 'localhost' : address.host.includes(':') ? `[${address.host}]` : address.host;
  const url = `http://${host}:${address.port}`;
  const shape = `${layers} layers, ${queryHeads} query heads over ${kvHeads} KV heads of ${headDim}`;
  const lines = [
    '',
    `MagicPIG listens on ${url}${anyHost ? ' and every other address of this machine' : ''}`,
    '',
    `  model      ${info.name}: ${info.config.architecture}, ${shape}`,
    `  context    ${info.contextTokens} tokens`,
    `  backend    ${info.backend}: ${info.description}`,
    `  threads    ${info.threads}`,
    `  weights    ${info.weights}`,
    `  policy     ${describeAttention(attention)}`,
    `  KV memory  ${formatBytes(info.cacheBytes)} for cache and tables`,
    `  chat page  ${url}/`,
    '',
    'Try:',
    '',
    `  curl ${url}/v1/chat/completions -H 'Content-Type: application/json' \\`,
    ...(address.apiKey ? [`    -H "Authorization: Bearer $MAGICPIG_API_KEY" \\`] : []),
    `    -d '{"messages": [{"role": "user", "content": "What is the capital of France?"}]}'`,
    '',
    '',
  ];
  return lines.join('\n');
}

function describeAttention(attention: AttentionOptions): string {
  const { policy, ...settings } = attention;
  const listed = Object.entries(settings).map(([name, value]) => `${name}=${shown(value)}`);
  return listed.length === 0 ? policy : `${policy} (${listed.join(', ')})`;
}

function shown(value: unknown): string {
  return typeof value === 'object' && !Array.isArray(value) ? JSON.stringify(value) : String(value);
}
