/** Element types of device memory. `bf16` is bfloat16, held in a Uint16Array on the host. */
export type DType = 'f32' | 'bf16' | 'i32' | 'u16' | 'i8' | 'u8';

interface HostArrays {
  f32: Float32Array;
  bf16: Uint16Array;
  i32: Int32Array;
  u16: Uint16Array;
  i8: Int8Array;
  u8: Uint8Array;
}

/** The typed array that holds elements of a type on the host. */
export type HostArray<T extends DType = DType> = HostArrays[T];

/** @internal */
export const ELEMENT_BYTES: Readonly<Record<DType, number>> = { f32: 4, bf16: 2, i32: 4, u16: 2, i8: 1, u8: 1 };

const CONSTRUCTORS = {
  f32: Float32Array,
  bf16: Uint16Array,
  i32: Int32Array,
  u16: Uint16Array,
  i8: Int8Array,
  u8: Uint8Array,
} as const;

/** @internal A view of `length` elements of `buffer` from byte 0, or a new array. */
export function hostArray<T extends DType>(dtype: T, length: number, buffer?: ArrayBuffer): HostArray<T> {
  const make = CONSTRUCTORS[dtype];
  return (buffer === undefined ? new make(length) : new make(buffer, 0, length)) as HostArray<T>;
}

/** @internal Whether a typed array is the one that holds `dtype`. */
export function holds(dtype: DType, array: ArrayBufferView): boolean {
  return array instanceof CONSTRUCTORS[dtype];
}
