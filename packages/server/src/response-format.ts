import type { Report, Usage } from './report.js';

/** A piece of an answer, one token or the text held back at the end. */
export interface Piece {
  text: string;
  /** Natural logarithm of the token's probability; absent for text that belongs to no one token. */
  logprob?: number;
}

/** A whole answer. */
export interface Answer {
  pieces: Piece[];
  finishReason: 'stop' | 'length';
  usage: Usage;
  report: Report;
}

/** How one endpoint writes answers down: the choices inside the envelope that both endpoints share. */
export interface ResponseFormat {
  /** `object` of the whole response and of a chunk of a stream. */
  objectName: { whole: string; chunk: string };
  /** The field to name when the prompt is at fault. */
  promptField: string;
  /** Whether the client wants log-probabilities, so that tokens without text are reported too. */
  logprobs: boolean;
  /** The one choice of a whole response. */
  choice(answer: Answer): object;
  /** The choice of the chunk that opens a stream, when the endpoint has one. */
  openingChoice?(): object;
  /** The choice of a chunk that carries a piece. */
  pieceChoice(piece: Piece): object;
  /** The choice of the chunk that ends a stream. */
  closingChoice(finishReason: Answer['finishReason']): object;
}
