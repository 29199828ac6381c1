"""A transit batch's request. Where it holds plaintext it is built in place, in memory that is wiped.

Decryption's holds ciphertext and contexts alone, and is ordinary `bytes`.
"""

import json
from binascii import b2a_base64
from collections.abc import Callable, Sequence

from service.memory.base64_codec import encode_block, encoded_size
from service.memory.plaintext import Plaintext
from service.memory.secret_pages import SecretBuffer

_BEGIN = '{"partial_failure_response_code":200,"batch_input":['
_END = "]}"
_SAFE = bytes(character for character in range(0x20, 0x7F) if chr(character) not in '"\\')
"""What stands in JSON as itself."""

Head = Callable[[int], bytes]
"""Makes the head of a request whose body has this many bytes."""


def decrypt_request(items: Sequence[tuple[str, bytes]], head: Head) -> bytes:
    """Head and body. A ciphertext that is none, and might end its JSON string, is quoted as JSON does it."""
    if "".join([ciphertext for ciphertext, _ in items]).encode("utf-8", "surrogatepass").translate(None, _SAFE):
        items = [(_quoted(ciphertext), context) for ciphertext, context in items]
    inputs = ",".join(
        [
            f'{{"ciphertext":"{ciphertext}","context":"{b2a_base64(context, newline=False).decode("ascii")}"}}'
            for ciphertext, context in items
        ]
    )
    body = f"{_BEGIN}{inputs}{_END}".encode("ascii")
    return head(len(body)) + body


def _quoted(text: str) -> str:
    # Half a surrogate pair would have Vault refuse the whole batch.
    return json.dumps(text.encode("utf-8", "replace").decode("utf-8"))[1:-1]


def encrypt_request(items: Sequence[tuple[Plaintext, bytes]], head: Head) -> SecretBuffer:
    """Head and body, which fill the buffer. The caller closes it once it has been sent.

    The plaintexts become base64 from their memory straight into the buffer; one that has been wiped meanwhile, because
    its caller has gone, goes as zeros.
    """
    parts = [
        (plaintext, f'","context":"{b2a_base64(context, newline=False).decode("ascii")}"}}'.encode("ascii"))
        for plaintext, context in items
    ]
    before = b'{"plaintext":"'
    frame = len(_BEGIN) + len(_END) + max(len(parts) - 1, 0)
    body = frame + sum(len(before) + encoded_size(len(plaintext)) + len(after) for plaintext, after in parts)
    start = head(body) + _BEGIN.encode("ascii")
    buffer = SecretBuffer(len(start) + body - len(_BEGIN))
    try:
        at = _put(buffer, 0, start)
        for number, (plaintext, after) in enumerate(parts):
            at = _put(buffer, at, b"," + before if number else before)
            at += _put_base64(plaintext, buffer.address + at)
            at = _put(buffer, at, after)  # over the NUL that OpenSSL adds
        _put(buffer, at, _END.encode("ascii"))
    except BaseException:
        buffer.close()
        raise
    return buffer


def _put(buffer: SecretBuffer, at: int, data: bytes) -> int:
    end = at + len(data)
    buffer.view[at:end] = data
    return end


def _put_base64(plaintext: Plaintext, to: int) -> int:
    try:
        return encode_block(to, plaintext.address, len(plaintext))
    except ValueError:
        with Plaintext.allocate(len(plaintext)) as zeros:
            return encode_block(to, zeros.address, len(zeros))
