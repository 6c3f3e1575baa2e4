/**
 * Keeps a user's text from turning into special tokens inside a rendered chat template.
 *
 * A template mixes special tokens (`<|im_start|>`) with messages into one string, in which a message that says
 * `<|im_end|>` looks like the template's own. So before rendering, a character that no text contains is put into every
 * place of the messages that could begin or end a special token: between the first two characters of one, and between the
 * last two (`<` and `|`, `|` and `>`). In the rendered string only the template's tokens are whole. The character is
 * taken out again from the text between them. Text without such places reaches the template unchanged, so templates that
 * trim, compare or search messages behave as ever.
 */
export class TextGuard {
  readonly #mark: string;
  readonly #places: RegExp | undefined;

  /**
   * @param specials Special tokens, each of two characters or more.
   * @param texts Everything that {@link guard} will see.
   */
  constructor(specials: Iterable<string>, texts: unknown) {
    this.#mark = unusedMark(texts);
    const pairs = new Set<string>();
    for (const special of specials) {
      const characters = Array.from(special);
      pairs.add(characters.slice(0, 2).join('')).add(characters.slice(-2).join(''));
    }
    this.#places = pairs.size === 0 ? undefined : new RegExp([...pairs].map(gap).join('|'), 'gu');
  }

  /** The value with every string in it guarded, at any depth. */
  guard<T>(value: T): T {
    const places = this.#places;
    if (places === undefined) return value;
    return mapStrings(value, (text) => text.replace(places, this.#mark)) as T;
  }

  /** A guarded text as it was. */
  restore(text: string): string {
    return text.replaceAll(this.#mark, '');
  }
}

/** A pattern for the place between two characters. */
function gap(pair: string): string {
  const [first, second] = Array.from(pair, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`);
  return `(?<=${first})(?=${second})`;
}

/** One of Unicode's 32 noncharacters U+FDD0..U+FDEF, which are for internal use, that the texts do not contain. */
function unusedMark(texts: unknown): string {
  const used = new Set<string>();
  mapStrings(texts, (text) => {
    for (const [character] of text.matchAll(/[\ufdd0-\ufdef]/g)) used.add(character);
    return text;
  });
  for (let code = 0xfdd0; code <= 0xfdef; code += 1) {
    const mark = String.fromCharCode(code);
    if (!used.has(mark)) return mark;
  }
  return '\ufdd0'; // all are in use, which no text has reason to do; the messages then lose this one
}

function mapStrings(value: unknown, map: (text: string) => string): unknown {
  if (typeof value === 'string') return map(value);
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, map));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [map(key), mapStrings(item, map)]));
}
