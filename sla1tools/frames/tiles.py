"""Tile-compressed images, decoded in a process apart: a file that kills its decoder gets a verdict, and harms nobody.

The decoder is C, and trusts what it reads. One process serves the whole night; it ends with the program that began it.
"""

import atexit
import io
import os
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

import numpy as np
from astropy.io import fits

from sla1tools.errors import FrameError, Reason

SAFE_TILINGS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS")  # damaged HCOMPRESS_1 tiles abort the process
SAFE_SETTINGS = {"BYTEPIX": (1, 2, 4, 8), "BLOCKSIZE": (16, 32)}
MOST_SECONDS = 4.0
MOST_MEMORY = 2**31  # bytes of addresses, beside 64 a pixel
_HEAD = struct.Struct("<?qqq")
"""Asked: whether to scale, size of the file that follows, number of the unit, limit of memory.
Told: whether it went well, size of what follows."""
_lock = threading.Lock()
_decoders: dict[int, Any] = {}  # by process: a fork must not talk to its parent's


def unpack(
    contents: bytes, number: int, header: fits.Header, shape: tuple[int, int], scaled: bool = True
) -> np.ndarray:
    """Decode the tile-compressed image of a file's unit `number`, whose header is given; `scaled` by BSCALE and BZERO.

    Raises
    ------
    FrameError
        `not_fits`, where the tiles are of a kind that is not read, cannot be decoded, or end the decoder.
    """
    if header.get("ZCMPTYPE") not in SAFE_TILINGS:
        message = f"tiles packed as {header.get('ZCMPTYPE')!r} are not read: unpack them first"
        raise FrameError(Reason.NOT_FITS, message)
    for name, value in ((header[key], header.get(f"ZVAL{key[5:]}")) for key in header if key.startswith("ZNAME")):
        if value not in SAFE_SETTINGS.get(name, (value,)):
            raise FrameError(Reason.NOT_FITS, f"tiles cannot be packed with {name} {value}")
    with _lock:
        well, answer = _ask(contents, number, MOST_MEMORY + 64 * shape[0] * shape[1], scaled)
    if not well:
        raise FrameError(Reason.NOT_FITS, answer.decode() or "its tiles end the decoder")
    return np.load(io.BytesIO(answer), allow_pickle=False)


def _ask(contents: bytes, number: int, most: int, scaled: bool) -> tuple[bool, bytes]:
    """Send a file, and receive what became of it; nothing at all from a decoder that died or took too long."""
    decoder = _decoders.get(os.getpid()) or _begin()
    limit = threading.Timer(MOST_SECONDS, decoder.kill)
    limit.start()
    try:
        decoder.stdin.write(_HEAD.pack(scaled, len(contents), number, most) + contents)
        decoder.stdin.flush()
        well, size, *_ = _HEAD.unpack(decoder.stdout.read(_HEAD.size))
        answer = decoder.stdout.read(size)
        if len(answer) == size:
            return well, answer
    except (OSError, struct.error):
        pass
    finally:
        limit.cancel()
    _end()
    return False, b""


def _begin() -> Any:
    command = [sys.executable, "-P", "-m", "sla1tools.frames.tiles"]
    decoder: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    decoder.stdout.read(1)  # it is awake
    _decoders[os.getpid()] = decoder
    return decoder


@atexit.register
def _end() -> None:
    decoder = _decoders.pop(os.getpid(), None)
    if decoder:
        decoder.kill()
        for pipe in (decoder.stdin, decoder.stdout):
            with suppress(OSError):
                pipe.close()
        decoder.wait()


def _serve() -> None:
    """Decode files from standard input until it ends."""
    received, sent = sys.stdin.buffer, sys.stdout.buffer
    sent.write(b"!")
    sent.flush()
    while head := received.read(_HEAD.size):
        scaled, size, number, most = _HEAD.unpack(head)
        contents = received.read(size)
        well, answer = True, io.BytesIO()
        try:
            _limit_memory(most)
            with fits.open(io.BytesIO(contents), memmap=False, do_not_scale_image_data=not scaled) as hdus:
                np.save(answer, hdus[number].data, allow_pickle=False)
        except Exception as error:
            well, answer = False, io.BytesIO(f"cannot be decoded: {type(error).__name__}: {error}".encode())
        sent.write(_HEAD.pack(well, answer.getbuffer().nbytes, 0, 0))
        sent.write(answer.getbuffer())
        sent.flush()


def _limit_memory(size: int) -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    _serve()
