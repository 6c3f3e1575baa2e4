/** A metadata value for {@link writeGguf}: what the format calls its type, and the value. */
export type GgufEntry =
  | { type: 'u32' | 'i32' | 'f32' | 'u64' | 'bool'; value: number }
  | { type: 'string'; value: string }
  | { type: 'strings'; value: readonly string[] }
  | { type: 'i32s' | 'f32s'; value: readonly number[] };

export interface GgufTensor {
  name: string;
  /** GGML's order: columns first. */
  dimensions: number[];
  /** ggml_type. */
  type: number;
  data: Uint8Array;
  /** Instead of the place where the writer puts it. */
  offset?: number;
}

const TYPES = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, u64: 10 } as const;

/** A GGUF file of version 3, written from the format's description and nothing of the parser under test. */
export function writeGguf(metadata: Record<string, GgufEntry>, tensors: readonly GgufTensor[]): Buffer {
  const parts: Buffer[] = [];
  const number = (size: number, write: (buffer: Buffer) => void) => {
    const buffer = Buffer.alloc(size);
    write(buffer);
    parts.push(buffer);
  };
  const u32 = (value: number) => number(4, (b) => b.writeUInt32LE(value));
  const u64 = (value: number) => number(8, (b) => b.writeBigUInt64LE(BigInt(value)));
  const text = (value: string) => {
    const bytes = Buffer.from(value);
    u64(bytes.length);
    parts.push(bytes);
  };

  parts.push(Buffer.from('GGUF'));
  u32(3);
  u64(tensors.length);
  u64(Object.keys(metadata).length);
  for (const [key, entry] of Object.entries(metadata)) {
    text(key);
    switch (entry.type) {
      case 'strings':
        u32(9);
        u32(8);
        u64(entry.value.length);
        entry.value.forEach(text);
        break;
      case 'i32s':
      case 'f32s':
        u32(9);
        u32(entry.type === 'i32s' ? 5 : 6);
        u64(entry.value.length);
        for (const value of entry.value)
          number(4, (b) => (entry.type === 'i32s' ? b.writeInt32LE(value) : b.writeFloatLE(value)));
        break;
      case 'string':
        u32(TYPES.string);
        text(entry.value);
        break;
      default:
        u32(TYPES[entry.type]);
        if (entry.type === 'u64') u64(entry.value);
        else if (entry.type === 'bool') number(1, (b) => b.writeUInt8(entry.value));
        else if (entry.type === 'f32') number(4, (b) => b.writeFloatLE(entry.value));
        else number(4, (b) => (entry.type === 'i32' ? b.writeInt32LE(entry.value) : b.writeUInt32LE(entry.value)));
    }
  }
  const align = (size: number) => Math.ceil(size / 32) * 32;
  let offset = 0;
  for (const tensor of tensors) {
    text(tensor.name);
    u32(tensor.dimensions.length);
    tensor.dimensions.forEach(u64);
    u32(tensor.type);
    u64(tensor.offset ?? offset);
    offset += align(tensor.data.length);
  }
  const header = Buffer.concat(parts);
  const body = tensors.map(({ data }) => Buffer.concat([data], align(data.length)));
  return Buffer.concat([Buffer.concat([header], align(header.length)), ...body]);
}
