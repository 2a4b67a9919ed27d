"""
The system calls of ``recvmmsg``, as cffi wants them told: what its ``emit_python_code`` makes of the declarations below.

With it cffi's parser need not be loaded.  A test makes it again and compares.

    int recvmmsg(int fd, void *messages, unsigned int count, int flags, void *timeout);
    int sendmmsg(int fd, void *messages, unsigned int count, int flags);
"""

from typing import Any

import _cffi_backend

ffi: Any
# fmt: off
ffi = _cffi_backend.FFI('recvmmsg_abi',
    _version = 0x2601,
    _types = b'\x00\x00\x01\x0D\x00\x00\x07\x01\x00\x00\x0D\x03\x00\x00\x08\x01\x00\x00\x07\x01\x00\x00\x00\x0F\x00\x00\x01\x0D\x00\x00\x07\x01\x00\x00\x02\x11\x00\x00\x08\x01\x00\x00\x07\x01\x00\x00\x02\x11\x00\x00\x00\x0F\x00\x00\x00\x01',
    _globals = (b'\x00\x00\x06\x23recvmmsg',0,b'\x00\x00\x00\x23sendmmsg',0),
)
