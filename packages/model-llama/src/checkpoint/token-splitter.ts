import type { AddedToken } from './tokenizer-json.js';

/** A stretch of text, or the id of an added token that stood between. */
export type TextPart = string | number;

/** Finds added tokens in a text: the leftmost first, the longest of those that start there. */
export class TokenSplitter {
  readonly #byContent: ReadonlyMap<string, AddedToken>;
  readonly #pattern: RegExp | undefined;

  constructor(tokens: Iterable<AddedToken>) {
    this.#byContent = new Map([...tokens].map((token) => [token.content, token]));
    const longestFirst = [...this.#byContent.keys()].sort((a, b) => b.length - a.length);
    this.#pattern = longestFirst.length === 0 ? undefined : new RegExp(longestFirst.map(escapeRegExp).join('|'), 'g');
  }

  split(text: string): TextPart[] {
    if (this.#pattern === undefined) return text === '' ? [] : [text];
    const parts: TextPart[] = [];
    let start = 0;
    const pattern = this.#pattern;
    pattern.lastIndex = 0;
    for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
      const token = this.#byContent.get(match[0])!;
      const end = match.index + match[0].length;
      if (token.singleWord && (isWordEnd(text, match.index) || isWordStart(text, end))) {
        pattern.lastIndex = match.index + 1;
        continue;
      }
      const before = text.slice(start, match.index);
      const kept = token.lstrip ? before.trimEnd() : before;
      if (kept !== '') parts.push(kept);
      parts.push(token.id);
      start = token.rstrip ? text.length - text.slice(end).trimStart().length : end;
      pattern.lastIndex = start;
    }
    if (start < text.length) parts.push(text.slice(start));
    return parts;
  }
}

export function escapeRegExp(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\/-]/g, '\\$&');
}

function isWordEnd(text: string, at: number): boolean {
  return /[\p{L}\p{N}_]$/u.test(text.slice(Math.max(0, at - 2), at));
}

function isWordStart(text: string, at: number): boolean {
  return /^[\p{L}\p{N}_]/u.test(text.slice(at, at + 2));
}
