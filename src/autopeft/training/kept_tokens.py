"""Token ids of texts, kept between runs in the user's cache folder and found again by their content.

A file is named by a digest of everything that decides on the ids: the tokenizer as it stands in memory, the texts,
where they are cut, and the versions of what cuts them. So nothing has to be told when a text or a tokenizer changes:
another name is looked for. What is read is checked before it is believed, and made again where it is damaged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from autopeft.caches import cache_folder
from autopeft.errors import WriteError
from autopeft.training.batches import Ragged
from autopeft.writing import write_whole

log = logging.getLogger(__name__)

VARIABLE = "AUTOPEFT_TOKENS"
"""The environment variable that turns this off where it is "off"; nothing is then read or written."""

BOUND = 2**29
"""Bytes that all files take together at most; those that were not used for longest go first."""

_LEAST_TEXTS = 200  # fewer are tokenised in less time than a file takes
_FORMAT = "1"  # part of every name: another layout of the files is another name
_DIGEST = "digest"


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer makes of texts.

    Args:
        ids: token ids, one row a text or a pair.
        types: token types in the same shape; None where the tokenizer gives none.
    """

    ids: Ragged
    types: Ragged | None


def tokens_of(
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    *,
    most: int,
    side: str,
    folder: Path | None = None,
) -> Tokens:
    """Token ids of `texts`, or of pairs of texts, each row cut to `most` tokens on `side`.

    Args:
        tokenizer: of transformers; only what its fast ones make is kept, since they alone can be told apart by content.
        folder: where files are kept; None for the folder "tokens" of the user's cache.
    """
    folder = cache_folder() / "tokens" if folder is None else folder
    name = _name(tokenizer, texts, pairs, most, side) if _is_on() and len(texts) >= _LEAST_TEXTS else None
    if name is None:
        return _made(tokenizer, texts, pairs, most, side)
    path = folder / f"{name}.safetensors"
    found = _read(path, len(texts), most, len(tokenizer))
    if found is None:
        found = _made(tokenizer, texts, pairs, most, side)
        _write(path, found)
    return found


def _is_on() -> bool:
    return os.environ.get(VARIABLE, "").lower() not in ("off", "0", "no", "false")


def _made(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, most: int, side: str) -> Tokens:
    own = tokenizer.truncation_side
    tokenizer.truncation_side = side
    try:
        found = tokenizer(list(texts), None if pairs is None else list(pairs), truncation=True, max_length=most)
    finally:
        # Whatever the tokenizer's own files say is what others who use it expect.
        tokenizer.truncation_side = own
    types = Ragged.of(found["token_type_ids"]) if "token_type_ids" in found else None
    return Tokens(Ragged.of(found["input_ids"]), types)


def _name(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, most: int, side: str) -> str | None:
    """The digest of all that decides on the ids; None where a tokenizer cannot say what it is made of."""
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None:
        return None
    # What a tokenizer was last told about cutting and padding is part of its own text, but not of what it is.
    facts = {key: value for key, value in json.loads(inner.to_str()).items() if key not in ("truncation", "padding")}
    about = {
        "format": _FORMAT,
        "class": type(tokenizer).__qualname__,
        "inputs": list(tokenizer.model_input_names),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "splits_special": bool(getattr(tokenizer, "split_special_tokens", False)),
        "versions": [version("tokenizers"), version("transformers")],
        "cut": [most, side],
        "n": [len(texts), None if pairs is None else len(pairs)],
        "tokenizer": facts,
    }
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for part in (texts, pairs or ()):
        for text in part:
            # With its length, or two texts whose border lies elsewhere would be the same bytes. Half a surrogate pair,
            # which JSON can hold, is no UTF-8.
            data = text.encode("utf-8", "surrogatepass")
            found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()


def _read(path: Path, n: int, most: int, n_words: int) -> Tokens | None:
    """What `path` holds; None, and the file gone, where it is not what was written."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}
            told = (file.metadata() or {}).get(_DIGEST)
        found = _checked(arrays, told, n, most, n_words)
        # A file that is used is as good as new, so that the bound takes those that nobody asks for.
        os.utime(path)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        log.warning("Kept tokens are damaged and made again (%s: %s).", path, error)
        with suppress(OSError):
            path.unlink()
        return None
    return found


def _checked(arrays: dict[str, NDArray[Any]], told: str | None, n: int, most: int, n_words: int) -> Tokens:
    """The tokens in `arrays`.

    Raises:
        ValueError, KeyError: they are not `n` rows of at most `most` of `n_words` tokens, or not what was written.
    """
    if told != _digest(arrays):
        raise ValueError("the digest is another")
    lengths, flat, types = arrays["lengths"], arrays["ids"], arrays.get("types")
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if len(lengths) != n or len(flat) != offsets[-1] or (types is not None and len(types) != len(flat)):
        raise ValueError(f"{len(lengths)} rows of {len(flat)} tokens do not fit {n} texts")
    if len(flat) and (int(lengths.max()) > most or int(flat.max()) >= n_words):
        raise ValueError("rows are too long, or tokens unknown")
    kept = None if types is None else Ragged(types.astype(np.int32), offsets)
    return Tokens(Ragged(flat.astype(np.int32), offsets), kept)


def _write(path: Path, tokens: Tokens) -> None:
    """Keep `tokens` where there is room; a cache that cannot be written makes the next start slow, not wrong."""
    arrays = {"ids": _narrow(tokens.ids.flat), "lengths": tokens.ids.lengths.astype(np.int32)}
    if tokens.types is not None:
        arrays["types"] = _narrow(tokens.types.flat)
    n_bytes = sum(array.nbytes for array in arrays.values())
    if n_bytes > BOUND // 2:
        return
    try:
        # The texts can be read off their tokens, and may be nobody else's business on a shared machine.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_room(path.parent, n_bytes)
        with write_whole(path) as part:
            save_file(arrays, part, metadata={_DIGEST: _digest(arrays)})
    except (OSError, WriteError) as error:
        log.info("Tokens are not kept: %s", error)


def _make_room(folder: Path, n_bytes: int) -> None:
    files = [(path, path.stat()) for path in folder.glob("*.safetensors")]
    taken = sum(stat.st_size for _, stat in files)
    for path, stat in sorted(files, key=lambda item: item[1].st_mtime):
        if taken + n_bytes <= BOUND:
            return
        path.unlink(missing_ok=True)
        taken -= stat.st_size


def _narrow(values: NDArray[np.int32]) -> NDArray[Any]:
    """`values` in the smallest type that holds them: half of the bytes, and of the time to read them."""
    top = int(values.max()) if len(values) else 0
    if len(values) and int(values.min()) < 0:
        return values
    return values.astype(np.uint8 if top < 2**8 else np.uint16 if top < 2**16 else np.int32)


def _digest(arrays: dict[str, NDArray[Any]]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name}\0{arrays[name].dtype}\0{arrays[name].shape}\0".encode() + arrays[name].tobytes())
    return found.hexdigest()
