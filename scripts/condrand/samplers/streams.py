"""Keys of the random streams."""

import hashlib

import numpy as np


def stream_key(
    seed: int, kind: str, unit: str, stream: tuple[str, ...] = ()
) -> tuple[np.uint64, np.uint64]:
    """The two 32-bit key words of a unit's random numbers.

    Parameters
    ----------
    seed : int
        Of the run.
    kind : str
        What the unit is, so that a target and a guide of the same name draw apart.
    unit : str
        Name of the target or guide.
    stream : tuple of str
        Which of the unit's streams: empty for the resamples of every test, else what draws
        afresh, such as the stage of refinement, the feature and the tail.

    Returns
    -------
    tuple of uint64
        Each below 2**32. An unsalted digest of the names (Python's ``hash`` differs between
        processes), so that other units of the screen do not matter.
    """
    text = "\0".join((str(seed), kind, unit, *stream)).encode()
    words = np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), "<u4")
    return np.uint64(words[0]), np.uint64(words[1])
