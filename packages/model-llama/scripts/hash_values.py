"""Seeded values that Python and TypeScript (test/hashed-values.ts) make alike, so that weights need not be stored."""

import numpy as np


def name_seed(name: str) -> int:
    """FNV-1a of the name, 32 bits."""
    h = 0x811C9DC5
    for byte in name.encode():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h


def mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of MurmurHash3: 32 bits to 32 bits, every bit of the result depends on every bit of x."""
    x = x.astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return x


def values(name: str, count: int, amplitude: float, offset: float = 0.0) -> np.ndarray:
    """float32, uniform in offset +- amplitude."""
    index = np.arange(count, dtype=np.uint32) + np.uint32(name_seed(name))
    uniform = mix(index).astype(np.float64) / 2**32 * 2 - 1
    return (uniform * amplitude + offset).astype(np.float32)


def integers(name: str, count: int, below: int) -> np.ndarray:
    index = np.arange(count, dtype=np.uint32) + np.uint32(name_seed(name))
    return (mix(index).astype(np.uint64) * below >> np.uint64(32)).astype(np.int64)
