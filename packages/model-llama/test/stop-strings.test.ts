import { describe, expect, it } from 'vitest';
import { StopStrings } from '../src/stop-strings.js';

/** Feeds pieces and returns what was shown after each, until the stop. */
function feed(stops: string[], pieces: string[]) {
  const watcher = new StopStrings(stops);
  const shown: string[] = [];
  for (const piece of pieces) {
    const { text, stopped } = watcher.push(piece);
    shown.push(text);
    if (stopped) return { shown, stopped, rest: watcher.flush() };
  }
  return { shown, stopped: false, rest: watcher.flush() };
}

describe('stop strings', () => {
  it('pass text through when there are none', () => {
    expect(feed([], ['a', 'b'])).toEqual({ shown: ['a', 'b'], stopped: false, rest: '' });
  });

  it('hold back what may be a beginning, and show it when it was not', () => {
    expect(feed(['END'], ['one E', 'N', 'O two'])).toEqual({
      shown: ['one ', '', 'ENO two'],
      stopped: false,
      rest: '',
    });
  });

  it('end the text before the string, across pieces', () => {
    expect(feed(['END'], ['one E', 'N', 'D two'])).toEqual({ shown: ['one ', '', ''], stopped: true, rest: '' });
  });

  it('give back at the end what was held', () => {
    expect(feed(['END'], ['one EN'])).toEqual({ shown: ['one '], stopped: false, rest: 'EN' });
  });

  it('take the one that begins first', () => {
    expect(feed(['bc', 'ab'], ['xabc'])).toEqual({ shown: ['x'], stopped: true, rest: '' });
  });

  it('see overlapping beginnings', () => {
    expect(feed(['aab'], ['aa', 'ab'])).toEqual({ shown: ['', 'a'], stopped: true, rest: '' });
  });

  it('lose no text whatever the pieces', () => {
    const text = 'abcabdabcabcabe';
    for (let size = 1; size <= text.length; size += 1) {
      const pieces = text.match(new RegExp(`.{1,${size}}`, 'g'))!;
      const { shown, stopped } = feed(['abcabe'], pieces);
      expect(shown.join('')).toBe('abcabdabc');
      expect(stopped).toBe(true);
    }
  });
});
