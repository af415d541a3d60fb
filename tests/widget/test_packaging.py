"""The build hook: what it builds when, and its message on a machine without Node."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ("widget.js", "widget.css", "loader.js")

_spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
assert _spec is not None
assert _spec.loader is not None
_hooks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_hooks)
description = _hooks.description


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A small project with our build configuration and hook, as a clone has them: no bundle."""
    root = tmp_path / "clone"
    (root / "mlc_widget" / "widget").mkdir(parents=True)
    (root / "mlc_widget" / "__init__.py").touch()
    for name in ("pyproject.toml", "hatch_build.py", "LICENSE", "mlc_widget/_version.py"):
        shutil.copy(ROOT / name, root / name)
    (root / "README.md").write_text("# mlc_widget\n")
    (root / "js" / "src").mkdir(parents=True)
    (root / "js" / "src" / "index.ts").write_text("export default {};\n")
    (root / "js" / "package-lock.json").write_text("{}\n")
    return root


def add_bundle(root: Path) -> None:
    static = root / "mlc_widget" / "widget" / "static"
    static.mkdir()
    for name in BUNDLE:
        (static / name).write_text(f"/* {name} */\n")


def build(root: Path, *, path: str, target: str = "wheel") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target],
        cwd=root,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fake_node(folder: Path, version: str) -> str:
    folder.mkdir()
    for name in ("node", "npm"):
        tool = folder / name
        tool.write_text(f"#!/bin/sh\necho {version}\n")
        tool.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("target", ["wheel", "sdist"])
def test_without_node_the_build_says_in_one_sentence_what_to_install(
    clone: Path, tmp_path: Path, target: str
) -> None:
    built = build(clone, path=str(tmp_path / "nothing"), target=target)
    assert built.returncode == 1
    output = (built.stdout + built.stderr).strip()
    assert len(output.splitlines()) == 1, output
    assert "Node.js 20 or newer" in output
    assert "https://nodejs.org" in output


def test_an_old_node_is_named(clone: Path, tmp_path: Path) -> None:
    built = build(clone, path=fake_node(tmp_path / "bin", "v16.1.0"))
    assert built.returncode == 1
    assert "v16.1.0" in built.stdout + built.stderr


def test_a_failing_npm_shows_its_output(clone: Path, tmp_path: Path) -> None:
    path = fake_node(tmp_path / "bin", "v22.0.0")
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\necho registry unreachable >&2\nexit 7\n")
    built = build(clone, path=path)
    assert built.returncode == 1
    assert "exit code 7" in built.stderr
    assert "registry unreachable" in built.stderr
    assert "Traceback" not in built.stdout + built.stderr


def test_an_sdist_with_the_bundle_inside_needs_no_node(clone: Path, tmp_path: Path) -> None:
    add_bundle(clone)
    nowhere = str(tmp_path / "nothing")
    made = build(clone, path=nowhere, target="sdist")
    assert made.returncode == 0, made.stderr
    archive = next((clone / "dist").glob("*.tar.gz"))
    # Python before 3.11.4 has no filters, unless a distribution has brought them.
    safely: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as sdist:
        sdist.extractall(tmp_path / "unpacked", **safely)
    unpacked = next((tmp_path / "unpacked").iterdir())
    # Even where the sources look newer than the bundle.
    (unpacked / "js" / "src" / "index.ts").touch()
    built = build(unpacked, path=nowhere)
    assert built.returncode == 0, built.stdout + built.stderr
    with zipfile.ZipFile(next((unpacked / "dist").glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {f"mlc_widget/widget/static/{name}" for name in BUNDLE} <= names


def test_a_changed_source_is_built_again(clone: Path, tmp_path: Path) -> None:
    add_bundle(clone)
    bundle = clone / "mlc_widget" / "widget" / "static" / "widget.js"
    os.utime(bundle, (1, 1))
    path = fake_node(tmp_path / "bin", "v22.0.0")
    npm = tmp_path / "bin" / "npm"
    npm.write_text(
        '#!/bin/sh\necho "$@" >>calls\necho fresh >../mlc_widget/widget/static/widget.js\n'
    )
    built = build(clone, path=path)
    assert built.returncode == 0, built.stdout + built.stderr
    assert bundle.read_text() == "fresh\n"
    assert (clone / "js" / "calls").read_text().splitlines()[-1] == "run build"


README = """# Title

<picture>
  <img alt="A" src="docs/a.png">
</picture>

See [docs](docs/index.md), [`code`](a.py), [above](#title) and [TVM](https://tvm.apache.org).
```python
x = y[0](docs)
```
`z[1](w)`
"""


def test_the_description_has_no_relative_links() -> None:
    text = description(README)
    assert "<picture" not in text
    assert "See docs, `code`, above and [TVM](https://tvm.apache.org)." in text
    assert "x = y[0](docs)" in text
    assert "`z[1](w)`" in text
    linked = description(README, "https://example.org/blob/HEAD")
    assert "[docs](https://example.org/blob/HEAD/docs/index.md)" in linked
    assert "[`code`](https://example.org/blob/HEAD/a.py), above" in linked


def test_the_readme_is_described_without_relative_links() -> None:
    text = description((ROOT / "README.md").read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S))
    assert targets
    assert all(target.startswith("https://") for target in targets), targets
    assert "<img" not in text
    assert 'pip install "mlc-widget[tvm]"' in text
    assert 'schema=Literal["cat", "dog"])' in text


def test_the_wheel_has_that_description(clone: Path) -> None:
    add_bundle(clone)
    (clone / "README.md").write_text(README)
    built = build(clone, path="")
    assert built.returncode == 0, built.stderr
    (wheel,) = (clone / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = archive.read(name).decode()
    assert "Description-Content-Type: text/markdown" in metadata
    assert "See docs, `code`, above and [TVM]" in metadata
