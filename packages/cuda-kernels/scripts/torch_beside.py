"""PyTorch's own operators at the shapes that kernels-bench measured, timed in the same way: python3 torch_beside.py RESULTS.json

Adds `pytorchMilliseconds` to the rows of RESULTS.json for which PyTorch has an operator, and its version. With MAGICPIG_EMULATE_DEVICE set
it runs on the CPU: to see that it runs.
"""

import json
import os
import re
import sys
import time

import torch
import torch.nn.functional as F

DEVICE = 'cpu' if os.environ.get('MAGICPIG_EMULATE_DEVICE') else 'cuda'
WEIGHTS = 8  # that take turns, so that none is found in a cache


def milliseconds(run):
    """Median over batches of about two milliseconds, by CUDA events."""
    if DEVICE == 'cpu':
        begin = time.perf_counter()
        run(0)
        return 1e3 * (time.perf_counter() - begin)
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


def random(*shape, dtype=torch.bfloat16):
    return torch.randn(*shape, device=DEVICE, dtype=dtype)


def rms_norm(rows, columns):
    x, weight = random(rows, columns), random(columns)
    return lambda i: F.rms_norm(x, (columns,), weight, 1e-5)


def add_rms_norm(rows, columns):
    x, y, weight = random(rows, columns), random(rows, columns), random(columns)
    return lambda i: F.rms_norm(x.add_(y), (columns,), weight, 1e-5)


def add(rows, columns):
    x, y = random(rows, columns, dtype=torch.float32), random(rows, columns, dtype=torch.float32)
    return lambda i: x.add_(y)


def to_bf16(rows, columns):
    x = random(rows, columns, dtype=torch.float32)
    return lambda i: x.to(torch.bfloat16)


def swiglu(rows, width):
    gate, up = random(rows, width), random(rows, width)
    return lambda i: F.silu(gate) * up


def linear(rows, outputs, inputs):
    x, weights = random(rows, inputs), [random(outputs, inputs) for _ in range(WEIGHTS)]
    return lambda i: F.linear(x, weights[i % WEIGHTS])


def linear_gated(rows, _two, width, inputs):
    x, weights = random(rows, inputs), [random(2 * width, inputs) for _ in range(WEIGHTS)]

    def run(i):
        both = F.linear(x, weights[i % WEIGHTS])
        return F.silu(both[:, :width]) * both[:, width:]

    return run


def gemm(rows, outputs, inputs):
    a, b = random(rows, inputs), random(outputs, inputs)
    return lambda i: a @ b.T


def attention_prefill(tokens, heads, kv_heads, dim):
    q, k, v = random(1, heads, tokens, dim), random(1, kv_heads, tokens, dim), random(1, kv_heads, tokens, dim)
    return lambda i: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def attention_decode(sequences, tokens, heads, kv_heads, dim):
    q = random(sequences, heads, 1, dim)
    k, v = random(sequences, kv_heads, tokens, dim), random(sequences, kv_heads, tokens, dim)
    return lambda i: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def column_mean(rows, heads, dim):
    x = random(rows, heads * dim)
    return lambda i: torch.mean(x, 0, dtype=torch.float32)


def simhash(keys, bits, tables, dim):
    """The authors' way: a matrix product, signs, packing by a product with powers of two."""
    x, planes = random(keys, dim), random(dim, bits * tables)
    powers = (2 ** torch.arange(bits, device=DEVICE)).to(torch.float16)
    return lambda i: (x @ planes > 0).view(keys, tables, bits).to(torch.float16) @ powers


def table_build(tables, keys, bits):
    """The authors' way: a sort of every table."""
    codes = torch.randint(0, 1 << bits, (tables, keys), device=DEVICE, dtype=torch.int16)
    return lambda i: torch.sort(codes, dim=1, stable=True)


OPERATORS = [
    rms_norm, add_rms_norm, add, to_bf16, swiglu, linear, linear_gated, gemm, attention_prefill, attention_decode, column_mean, simhash,
    table_build,
]  # fmt: skip


def main():
    torch.manual_seed(0)
    path = sys.argv[1]
    with open(path) as file:
        results = json.load(file)
    operators = {operator.__name__: operator for operator in OPERATORS}
    for row in results['results']:
        operator = operators.get(row['kernel'])
        if operator is None:
            continue
        numbers = [int(number) for number in re.findall(r'\d+', row['shape'])]
        try:
            row['pytorchMilliseconds'] = milliseconds(operator(*numbers))
        except (RuntimeError, AttributeError, NotImplementedError) as error:  # an operator that this version or device lacks
            print(f'{row["kernel"]:26} {row["shape"]:46} {error}'.splitlines()[0])
            continue
        theirs = row['pytorchMilliseconds']
        print(f'{row["kernel"]:26} {row["shape"]:46} {theirs:9.4f} ms by PyTorch, {theirs / row["milliseconds"]:.2f}x ours')
    results['pytorch'] = torch.__version__
    with open(path, 'w') as file:
        json.dump(results, file, indent=2)
        file.write('\n')


main()
