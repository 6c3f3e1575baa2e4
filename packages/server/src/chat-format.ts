import type { Piece, ResponseFormat } from './response-format.js';

/** Choices of `/v1/chat/completions`. */
export function chatFormat({ logprobs }: { logprobs: boolean }): ResponseFormat {
  const logprobsOf = (pieces: Piece[]) => (logprobs ? { content: pieces.flatMap(tokenLogprob), refusal: null } : null);
  return {
    objectName: { whole: 'chat.completion', chunk: 'chat.completion.chunk' },
    promptField: 'messages',
    logprobs,
    choice: ({ pieces, finishReason }) => ({
      index: 0,
      message: { role: 'assistant', content: pieces.map(({ text }) => text).join(''), refusal: null },
      logprobs: logprobsOf(pieces),
      finish_reason: finishReason,
    }),
    openingChoice: () => ({ index: 0, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }),
    pieceChoice: (piece) => ({
      index: 0,
      delta: { content: piece.text },
      logprobs: logprobsOf([piece]),
      finish_reason: null,
    }),
    closingChoice: (finishReason) => ({ index: 0, delta: {}, logprobs: null, finish_reason: finishReason }),
  };
}

function tokenLogprob({ text, logprob }: Piece): object[] {
  return logprob === undefined ? [] : [{ token: text, logprob, bytes: [...Buffer.from(text)], top_logprobs: [] }];
}
