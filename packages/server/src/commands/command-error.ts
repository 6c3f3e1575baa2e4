/** A failure whose message is all that the user needs: printed without a stack, exit code 1. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
}
