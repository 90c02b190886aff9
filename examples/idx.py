"""Reads IDX files, the format of MNIST and Fashion-MNIST: a magic number, sizes, then bytes."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

UBYTE = 0x08
GZIPPED = b"\x1f\x8b"
SIDE, CLASSES = 28, 10


def read_idx(path):
    """The array of unsigned bytes in a file, gzipped or not.

    Raises ValueError, which names the file, if that is not what is in it.
    """
    path = Path(path)
    data = path.read_bytes()
    if data[:2] == GZIPPED:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is a broken gzip file: {error}") from error
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError(f"{path} is no IDX file: it begins with {data[:4]!r}")
    kind, ndim = data[2], data[3]
    if kind != UBYTE:
        raise ValueError(f"{path} holds type {kind:#04x}, not unsigned bytes ({UBYTE:#04x})")
    start = 4 + 4 * ndim
    if len(data) < start:
        raise ValueError(f"{path} ends within its header")
    shape = struct.unpack(f">{ndim}I", data[4:start])
    size = int(np.prod(shape, dtype=object))
    if len(data) - start != size:
        raise ValueError(f"{path} should hold {size} bytes for shape {shape}, but holds "
                         f"{len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_split(folder, split):
    """Images (N, 28, 28) in 0 .. 1 and labels (N,) of "train" or "t10k"."""
    images, labels = (_find(folder, f"{split}-{name}-ubyte")
                      for name in ("images-idx3", "labels-idx1"))
    images, labels = read_idx(images), read_idx(labels)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(f"{split}: images of shape {images.shape} and labels of shape "
                         f"{labels.shape} do not belong together")
    if images.shape[1:] != (SIDE, SIDE) or len(images) < 2:
        raise ValueError(f"{split}: there must be two images at least of {SIDE} x {SIDE} pixels, "
                         f"but their shape is {images.shape}")
    if labels.max() >= CLASSES:
        raise ValueError(f"{split}: labels must be below {CLASSES}, but one is {labels.max()}")
    return images.astype(np.float32) / 255, labels.astype(np.int64)


def _find(folder, name):
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    for path in (Path(folder, name), Path(folder, f"{name}.gz")):
        if path.exists():
            return path
    raise FileNotFoundError(f"{folder} has no {name}, nor {name}.gz")
