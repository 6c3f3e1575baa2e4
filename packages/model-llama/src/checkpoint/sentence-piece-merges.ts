// SentencePiece's own pieces end at 16 characters by default; a damaged file must not cost quadratic time.
const MAX_PIECE_LENGTH = 512;

/**
 * Merge rules for a byte-pair encoder that does what SentencePiece does with scores: of all neighbours whose union is a
 * piece, join those of the highest score first. Every way to cut a piece into two pieces becomes a rule; rules of equal
 * score are ordered as `transformers` does when it converts such models (SentencePieceExtractor).
 *
 * @param pieces Tokens by id.
 * @param scores A score a token; higher merges first.
 * @param isPiece Whether a token takes part: control, unknown and byte tokens do not.
 */
export function sentencePieceMerges(
  pieces: readonly string[],
  scores: ArrayLike<number>,
  isPiece: (id: number) => boolean,
): [string, string][] {
  const ids = new Map<string, number>();
  for (const [id, piece] of pieces.entries()) if (piece.length <= MAX_PIECE_LENGTH && isPiece(id)) ids.set(piece, id);

  const rules: { left: string; right: string; score: number; leftLength: number; rightLength: number }[] = [];
  for (const [piece, id] of ids) {
    const characters = Array.from(piece);
    const cuts: { left: string; right: string; leftLength: number }[] = [];
    let left = '';
    for (let at = 1; at < characters.length; at += 1) {
      left += characters[at - 1];
      const right = piece.slice(left.length);
      if (ids.has(left) && ids.has(right)) cuts.push({ left, right, leftLength: at });
    }
    cuts.sort((a, b) => ids.get(a.left)! - ids.get(b.left)! || ids.get(a.right)! - ids.get(b.right)!);
    for (const cut of cuts) {
      rules.push({ ...cut, score: scores[id]!, rightLength: characters.length - cut.leftLength });
    }
  }
  rules.sort((a, b) => b.score - a.score || b.leftLength - a.leftLength || b.rightLength - a.rightLength);
  return rules.map(({ left, right }) => [left, right]);
}
