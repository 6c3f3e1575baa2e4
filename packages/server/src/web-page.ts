import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

const html = readFileSync(new URL('../web/index.html', import.meta.url), 'utf8');

/** The chat page: one self-contained file, and the policy that lets nothing but its own script, style and server in. */
export const webPage = {
  html,
  contentSecurityPolicy: [
    "default-src 'none'",
    "connect-src 'self'",
    'img-src data:',
    `script-src ${inlineHashes('script')}`,
    `style-src ${inlineHashes('style')}`,
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; '),
};

/** Hashes of the page's inline elements of one kind, as a content security policy names them. */
function inlineHashes(tag: 'script' | 'style'): string {
  return [...html.matchAll(new RegExp(`<${tag}>([\\s\\S]*?)</${tag}>`, 'g'))]
    .map(([, content]) => `'sha256-${createHash('sha256').update(content!).digest('base64')}'`)
    .join(' ');
}
