"""Files of policies, as others write them."""

import pickle
from pathlib import Path

import numpy as np


def write(path: Path, content) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        path.write_bytes(pickle.dumps(content))
    return path
