"""Pickled checkpoints (``.ckpt``, ``.pt``, ``.pth``, ``.bin``), of which only the headers are read.

torch keeps tensors' bytes outside of its pickles, uncompressed and at known places. So a pickle is
a header like any other: it tells names, types, shapes and places, and the bytes stay where they
are. What a pickle says is found out in a process of its own, which obeys none of it: see
`corepress.identify.pickles.unpickler`.
"""

from corepress.identify.pickles.torch_file import read_pickle

__all__ = ["read_pickle"]
