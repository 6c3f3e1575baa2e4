/** A float32 buffer of a {@link CpuBackend}, 64-byte aligned, zeroed when made. */
export interface Tensor extends Disposable {
  /** Number of elements. */
  readonly length: number;
  /**
   * The elements, in place.
   * @throws DisposedError after the tensor was disposed; views taken earlier are then empty.
   */
  readonly host: Float32Array;
}
