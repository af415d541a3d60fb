"""Hundreds of ways in which a folder of safetensors is damaged, or made to do harm."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import hf_folders

Damage = Callable[[Path, random.Random], None]
_HUGE = (2**31, 2**40, 2**63, 2**64 - 1, 10**30)


def _header(folder: Path) -> tuple[Path, dict[str, Any], bytes]:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return file, json.loads(content[8 : 8 + length]), content[8 + length :]


def _of_header(change: Callable[[dict[str, Any], str, random.Random], None]) -> Damage:
    """A change of the header, given one of its tensors; the file has the header's new length."""

    def damage(folder: Path, rng: random.Random) -> None:
        file, header, data = _header(folder)
        name = rng.choice([n for n in header if n != "__metadata__"])
        change(header, name, rng)
        hf_folders.write(file, header, data)

    return damage


def _of_json(name: str, change: Callable[[dict[str, Any], random.Random], Any]) -> Damage:
    def damage(folder: Path, rng: random.Random) -> None:
        file = folder / name
        content = json.loads(file.read_text())
        made = change(content, rng)
        file.write_text(json.dumps(content if made is None else made))

    return damage


def _truncated(folder: Path, rng: random.Random) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, rng.randrange(file.stat().st_size))


def _appended(folder: Path, rng: random.Random) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(rng.randbytes(rng.randint(1, 5000)))


def _header_length(folder: Path, rng: random.Random) -> None:
    file = folder / "model.safetensors"
    length = rng.choice([0, 1, 7, file.stat().st_size, 10**8, *_HUGE[:4]])
    with file.open("r+b") as opened:
        opened.write(length.to_bytes(8, "little"))


def _huge_header(folder: Path, rng: random.Random) -> None:
    file = folder / "model.safetensors"
    length = rng.choice([9 << 20, 1 << 30, 1 << 40])
    with file.open("wb") as opened:
        opened.write(length.to_bytes(8, "little"))
        opened.truncate(length + 8)  # a hole in the file: it takes no disk


def _header_text(folder: Path, rng: random.Random) -> None:
    text = rng.choice(
        [
            *(b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b"[" * 10**6, b'{"a":' * 10**5),
            *(b'{"a": ' + b"9" * 10**5 + b"}", b'{"a": {}, "a": {}}', b'{"a": 1}', b"{'a': 1}"),
            *(b'{"": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}', b"\x80\x04N."),
            *(b"[" + b"[]," * 10**5 + b"0]", b'{"a": NaN}', b'{"a": {"dtype": "F32"}}'),
        ]
    )
    file, _, data = _header(folder)
    hf_folders.write(file, text, data)


def _offsets(header: dict[str, Any], name: str, rng: random.Random) -> None:
    start, stop = header[name]["data_offsets"]
    shift = rng.choice([4, 64, 1000])
    header[name]["data_offsets"] = rng.choice(
        [
            *([start + shift, stop + shift], [stop, start], [start, stop + shift], [start]),
            *([-shift, stop], [start, stop, stop], [str(start), stop], None, [start, 10**30]),
            *([start + 0.5, stop], [2**63, 2**63 + stop - start], [True, stop], {}, "0,4"),
        ]
    )


def _overlap(header: dict[str, Any], name: str, rng: random.Random) -> None:
    other = rng.choice([n for n in header if n not in ("__metadata__", name)])
    size = header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
    start = header[other]["data_offsets"][0]
    header[name]["data_offsets"] = [start, start + size]


def _shape(header: dict[str, Any], name: str, rng: random.Random) -> None:
    shape = header[name]["shape"]
    header[name]["shape"] = rng.choice(
        [
            *([*shape, rng.choice(_HUGE)], [-n for n in shape], [2 * n for n in shape], [0], []),
            *([str(n) for n in shape], [n + 0.5 for n in shape], None, 4, [1] * 1000, [shape]),
            *([2**32, 2**32], [True, *shape[1:]], [*shape[:-1], shape[-1] // 2]),
        ]
    )


def _other_shape(header: dict[str, Any], name: str, rng: random.Random) -> None:
    """The same bytes in a shape that the configuration does not have."""
    shape = header[name]["shape"]
    size = int(np.prod(shape))
    header[name]["shape"] = rng.choice([[size, 1], [2, size // 2], [1, size], [1, 1, size]])


def _dtype(header: dict[str, Any], name: str, rng: random.Random) -> None:
    header[name]["dtype"] = rng.choice(
        [
            *("F64", "F16", "BF16", "I32", "U32", "I8", "F8_E4M3", "F8_E5M2", "F4", "BOOL", "Q4"),
            *("", "f32", None, 5, ["F32"], "F32" * 1000),
        ]
    )


def _renamed(header: dict[str, Any], name: str, rng: random.Random) -> None:
    other = rng.choice(
        [
            *(
                f"{name}.qweight",
                "x" * 5000,
                "model.layers.9.mlp.up_proj.weight",
                "../../etc/passwd",
            ),
            *(f"{name}_", "a\x00b", "lora_A.weight", "é" * 100, name.upper()),
        ]
    )
    header[other] = header.pop(name)


def _packed(header: dict[str, Any], name: str, rng: random.Random) -> None:
    """As GPTQ, AWQ, bitsandbytes and fp8 store it."""
    layer = "model.layers.0.mlp.down_proj."
    entry = header.pop(f"{layer}weight")
    kind = rng.choice(["qweight", "qzeros", "weight_packed", "weight_scale_inv"])
    header[layer + kind] = {**entry, "dtype": rng.choice(["I32", "F32"])}


def _values(folder: Path, rng: random.Random) -> None:
    file, header, data = _header(folder)
    values = np.frombuffer(data, np.float32).copy()
    found = [e["data_offsets"] for n, e in header.items() if n != "__metadata__"]
    start, stop = rng.choice(found)
    at = rng.randrange(start // 4, stop // 4)
    values[at] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -1e30])
    hf_folders.write(file, header, values.tobytes())


def _replaced(folder: Path, rng: random.Random) -> None:
    """Something else where a file is to be."""
    name = rng.choice(["model.safetensors", "config.json", "tokenizer.json"])
    file = folder / name
    file.unlink()
    aside = folder.parent / f"{folder.name}-outside"
    rng.choice(
        [
            lambda: os.mkfifo(file),
            file.mkdir,
            lambda: file.symlink_to(file),
            lambda: file.symlink_to(folder / "nothing"),
            lambda: file.symlink_to("/dev/zero"),
            lambda: file.symlink_to("/etc/passwd"),
            lambda: (aside.write_bytes(b"{}"), file.symlink_to(aside)),
            lambda: (aside.write_bytes(b"{}"), file.symlink_to(f"../{aside.name}")),
            lambda: None,
            lambda: file.write_bytes(b""),
            lambda: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            lambda: file.write_bytes(rng.randbytes(1000)),
            lambda: (file.touch(), os.truncate(file, 1 << 40)),
        ]
    )()


def _pickled(folder: Path, rng: random.Random) -> None:
    name = rng.choice(["pytorch_model.bin", "model.pt", "consolidated.00.pth", "weights.ckpt"])
    (folder / "model.safetensors").rename(folder / name)


def _indexed(folder: Path, rng: random.Random) -> None:
    """An index that names what it may not."""
    file, header, _ = _header(folder)
    names = [n for n in header if n != "__metadata__"]
    weight_map: Any = dict.fromkeys(names, "part.safetensors")
    file.rename(folder / "part.safetensors")
    name = rng.choice(names)
    outside = folder.parent / f"{folder.name}-outside.safetensors"
    case = rng.randrange(17)
    bad: Any = [
        *("../model.safetensors", f"../{outside.name}", "/etc/passwd", str(outside), ""),
        *("model.safetensors.index.json", "none.safetensors", "a/b.safetensors", "..", 7, None),
        *(
            ["part.safetensors"],
            "x" * 10**5 + ".safetensors",
            "pytorch_model.bin",
            "a\x00.safetensors",
        ),
    ]
    if case < len(bad):
        outside.write_bytes((folder / "part.safetensors").read_bytes())
        weight_map[name] = bad[case]
    elif case == len(bad):
        weight_map["model.layers.7.mlp.up_proj.weight"] = "part.safetensors"
    else:
        weight_map = rng.choice([{}, [], None, "part.safetensors", {"a": "part.safetensors"}])
    index = {"weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _linked_shards(folder: Path, rng: random.Random) -> None:
    """Shards that are links in a circle, or to the index."""
    file, header, _ = _header(folder)
    names = [n for n in header if n != "__metadata__"]
    file.unlink()
    targets = {"a": "b.safetensors", "b": "a.safetensors"}
    if rng.random() < 0.5:
        targets = {"a": "model.safetensors.index.json", "b": "config.json"}
    for name, target in targets.items():
        (folder / f"{name}.safetensors").symlink_to(target)
    weight_map = {name: rng.choice(["a.safetensors", "b.safetensors"]) for name in names}
    index = {"weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


_NUMBERS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("num_hidden_layers", "head_dim", "vocab_size", "max_position_embeddings"),
)


def _config_number(config: dict[str, Any], rng: random.Random) -> None:
    name = rng.choice(_NUMBERS)
    worse = [0, -1, 1 << 26, "64", 1.5, True, [], {}, *_HUGE]
    if name != "max_position_embeddings":  # any plausible one may be right
        worse.append(config[name] * 2 + 16)
    config[name] = rng.choice(worse)


def _config_field(config: dict[str, Any], rng: random.Random) -> None:
    name, value = rng.choice(
        [
            *(("model_type", kind) for kind in ("gpt2", "bert", None, 5, ["llama"], "x" * 10**5)),
            *(("quantization_config", {"quant_method": m}) for m in ("gptq", "awq", "fp8", 4)),
            *(("quantization_config", value) for value in ("bitsandbytes", [], {"x": "y" * 10**4})),
            *(("hidden_act", "gelu"), ("attention_bias", True), ("mlp_bias", True)),
            *(("attention_bias", "yes"), ("tie_word_embeddings", 1), ("rms_norm_eps", -1)),
            *(
                ("rms_norm_eps", "nan"),
                ("rope_theta", 0),
                ("rope_theta", "1"),
                ("eos_token_id", "2"),
            ),
            *(("rope_scaling", s) for s in ("x", [1], {"type": "yarn"}, {"rope_type": "linear"})),
            *(("eos_token_id", list(range(5000))), ("eos_token_id", -1), ("eos_token_id", 2**40)),
            *(("rope_scaling", {"rope_type": "linear", "factor": 1e300}), ("rope_parameters", 7)),
        ]
    )
    config[name] = value


def _any_json(folder: Path, rng: random.Random) -> None:
    names = ["config.json", "tokenizer_config.json", "generation_config.json"]
    (folder / rng.choice(names)).write_bytes(
        rng.choice([b"", b"[]", b"[" * 10**6, b"\xff", b'{"a":' * 500 + b"1" + b"}" * 500, b"{"])
    )


def _sampling(values: dict[str, Any], rng: random.Random) -> None:
    name, value = rng.choice(
        [
            *(("temperature", v) for v in (-1, "hot", 1e9, [], True)),
            *(("top_p", v) for v in (2, -0.5, "all")),
            *(("repetition_penalty", v) for v in (-2, "x")),
            *(("top_k", v) for v in (-5, 1.5, "few", 10**400)),
            *(("min_p", v) for v in (2, [])),
            *(("eos_token_id", v) for v in ("2", -5, [[2]], 2**40, {})),
        ]
    )
    values[name] = value


def _template(values: dict[str, Any], rng: random.Random) -> None:
    values["chat_template"] = rng.choice([7, {"a": 1}, True, 1.5])


KINDS: dict[str, Damage] = {
    "truncated": _truncated,
    "appended": _appended,
    "length of header": _header_length,
    "huge header": _huge_header,
    "text of header": _header_text,
    "offsets": _of_header(_offsets),
    "overlapping": _of_header(_overlap),
    "shape": _of_header(_shape),
    "shape of another model": _of_header(_other_shape),
    "dtype": _of_header(_dtype),
    "names": _of_header(_renamed),
    "packed": _of_header(_packed),
    "missing": _of_header(lambda header, name, rng: header.pop(name)),
    "values": _values,
    "no file": _replaced,
    "pickle": _pickled,
    "index": _indexed,
    "links": _linked_shards,
    "numbers of config.json": _of_json("config.json", _config_number),
    "fields of config.json": _of_json("config.json", _config_field),
    "JSON": _any_json,
    "generation_config.json": _of_json("generation_config.json", _sampling),
    "chat template": _of_json("tokenizer_config.json", _template),
}


def damaged(count: int, seed: int = 0) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """So many kinds and cases: a name, and what makes the folder."""
    for i in range(count):
        kind = list(KINDS)[i % len(KINDS)]

        def make(folder: Path, kind: str = kind, i: int = i) -> Path:
            hf_folders.make(folder)
            KINDS[kind](folder, random.Random(f"{seed} {i}"))
            return folder

        yield f"{kind} {i}", make
