import type { Piece, ResponseFormat } from './response-format.js';

/** Choices of `/v1/completions`. A format serves one response: it counts the offsets of the text it has written. */
export function completionFormat({ logprobs }: { logprobs: boolean }): ResponseFormat {
  let offset = 0;
  const logprobsOf = (pieces: Piece[]) => {
    if (!logprobs) return null;
    const tokens: string[] = [];
    const tokenLogprobs: number[] = [];
    const offsets: number[] = [];
    for (const { text, logprob } of pieces) {
      if (logprob !== undefined) {
        tokens.push(text);
        tokenLogprobs.push(logprob);
        offsets.push(offset);
      }
      offset += text.length;
    }
    return { tokens, token_logprobs: tokenLogprobs, text_offset: offsets, top_logprobs: null };
  };
  return {
    objectName: { whole: 'text_completion', chunk: 'text_completion' },
    promptField: 'prompt',
    logprobs,
    choice: ({ pieces, finishReason }) => ({
      index: 0,
      text: pieces.map(({ text }) => text).join(''),
      logprobs: logprobsOf(pieces),
      finish_reason: finishReason,
    }),
    pieceChoice: (piece) => ({ index: 0, text: piece.text, logprobs: logprobsOf([piece]), finish_reason: null }),
    closingChoice: (finishReason) => ({ index: 0, text: '', logprobs: null, finish_reason: finishReason }),
  };
}
