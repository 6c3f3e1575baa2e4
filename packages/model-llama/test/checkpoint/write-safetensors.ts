export interface SafeTensor {
  dtype: string;
  shape: number[];
  data: Uint8Array;
}

/** A safetensors file; `change` may spoil the header's entries before it is written. */
export function writeSafetensors(
  tensors: Record<string, SafeTensor>,
  change: (header: Record<string, Record<string, unknown>>) => void = () => {},
): Buffer {
  const header: Record<string, Record<string, unknown>> = { __metadata__: { format: 'pt' } };
  let offset = 0;
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [offset, (offset += data.length)] };
  }
  change(header);
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...Object.values(tensors).map(({ data }) => data)]);
}
