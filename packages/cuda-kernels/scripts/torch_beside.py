"""PyTorch's own operators at the sizes of kernels-bench, timed in the same way: python3 torch_beside.py RESULTS.json"""

import json
import sys

import torch
import torch.nn.functional as F


def milliseconds(run):
    """Median over batches of about two milliseconds, by CUDA events."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def batch(count):
        start.record()
        for i in range(count):
            run(i)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / count

    batch(2)
    count = int(min(max(2.0 / max(batch(2), 1e-4), 1), 400))
    return sorted(batch(count) for _ in range(11))[5]


def main():
    torch.manual_seed(0)
    results = []

    def add(kernel, shape, run):
        try:
            time = milliseconds(run)
        except (RuntimeError, AttributeError) as error:  # an operator that this version or device lacks
            print(f'{kernel:26} {shape:46} {error}'.splitlines()[0])
            return
        results.append({'kernel': kernel, 'shape': shape, 'milliseconds': time})
        print(f'{kernel:26} {shape:46} {time:9.4f} ms  (PyTorch {torch.__version__})')

    def random(*shape, dtype=torch.bfloat16):
        return torch.randn(*shape, device='cuda', dtype=dtype)

    rows, hidden, heads, kv_heads, dim, ffn = 8192, 4096, 32, 8, 128, 14336
    x, weight = random(rows, hidden), random(hidden)
    add('rms_norm', f'{rows} x {hidden}', lambda i: F.rms_norm(x, (hidden,), weight, 1e-5))
    gate, up = random(rows, ffn), random(rows, ffn)
    add('swiglu', f'{rows} x {ffn}', lambda i: F.silu(gate) * up)
    weights = [random(2 * ffn, hidden) for _ in range(8)]
    for count in (1, 4, 8, 16):
        few = random(count, hidden)
        add('linear', f'{count} rows, {2 * ffn} x {hidden}', lambda i: F.linear(few, weights[i % 8]))
    del weights
    a, b = random(8192, 8192), random(8192, 8192)
    add('gemm', '8192 x 8192 x 8192', lambda i: a @ b.T)
    for tokens in (4096, 16384):
        q = random(1, heads, tokens, dim)
        k, v = random(1, kv_heads, tokens, dim), random(1, kv_heads, tokens, dim)
        add(
            'attention_prefill',
            f'{tokens} tokens, 32 / 8 heads, d = 128',
            lambda i: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
        )
    for sequences, tokens in ((1, 98304), (8, 16384)):
        q = random(sequences, heads, 1, dim)
        k, v = random(sequences, kv_heads, tokens, dim), random(sequences, kv_heads, tokens, dim)
        add(
            'attention_decode',
            f'{sequences} x {tokens} tokens, 32 / 8 heads, d = 128',
            lambda i: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        )
    # The authors' way: a matrix product, signs, packing by a product with powers of two, a sort of every table.
    keys, bits, tables = 98304, 10, 150
    for_hash, planes = random(keys, dim), random(dim, bits * tables)
    powers = (2 ** torch.arange(bits, device='cuda')).to(torch.float16)

    def hash_keys(_):
        signs = (for_hash @ planes > 0).view(keys, tables, bits).to(torch.float16)
        return signs @ powers

    add('simhash', f'{keys} keys of one head, (10, 150), d = 128', hash_keys)
    codes = torch.randint(0, 1 << bits, (tables, 49152), device='cuda', dtype=torch.int16)
    add('table_build', f'{tables} tables of 49152 keys, 10 bits', lambda i: torch.sort(codes, dim=1, stable=True))
    with open(sys.argv[1], 'w') as file:
        json.dump({'device': torch.cuda.get_device_name(), 'torch': torch.__version__, 'results': results}, file, indent=2)


main()
