"""Builds the widget's JavaScript with Node before a wheel or sdist is made, and its description.

The bundle is not in git, but it is in every wheel and sdist, so that only a build from a clone
needs Node. The description is the README, as a package index can show it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

BUNDLE = tuple(
    f"mlc_widget/widget/static/{name}" for name in ("widget.js", "widget.css", "loader.js")
)
NODE_AT_LEAST = 20
REMEDY = (
    f"install Node.js {NODE_AT_LEAST} or newer with npm, from https://nodejs.org or your "
    "distribution (`apt install nodejs npm`, `dnf install nodejs`, `brew install node`), "
    "and run the command again"
)


def bundle_is_current(root: Path) -> bool:
    """Whether the bundle is there and no source is newer; in an sdist, whether it is there."""
    bundle = [root / name for name in BUNDLE]
    if not all(path.is_file() for path in bundle):
        return False
    if (root / "PKG-INFO").is_file():  # an unpacked sdist
        return True
    sources = [*(root / "js" / "src").rglob("*.*"), *(root / "js").glob("*.mjs")]
    sources += [root / "js" / "package-lock.json"]
    built = min(path.stat().st_mtime for path in bundle)
    return all(path.stat().st_mtime <= built for path in sources if path.is_file())


def node_problem() -> str | None:
    """One sentence on what is missing, or None if Node will do."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        missing = "node" if node is None else "npm"
        return f"Building mlc_widget needs Node.js, and `{missing}` was not found: {REMEDY}."
    version = subprocess.run(
        [node, "--version"], capture_output=True, text=True, check=False
    ).stdout
    major = version.strip().lstrip("v").split(".")[0]
    if not major.isdigit() or int(major) < NODE_AT_LEAST:
        found = version.strip() or "of an unknown version"
        return f"Building mlc_widget needs a newer Node.js than {found} at {node}: {REMEDY}."
    return None


def has_modules(js: Path) -> bool:
    """Whether `npm ci` was run for this lock already, so that a developer's tools stay."""
    installed, lock = js / "node_modules" / ".package-lock.json", js / "package-lock.json"
    return installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime


def build_bundle(root: Path) -> None:
    """Run npm.

    Raises:
        RuntimeError: with the command and its output, if it fails.
    """
    js = root / "js"
    commands = [] if has_modules(js) else [["ci", "--omit=dev", "--no-audit", "--no-fund"]]
    for arguments in [*commands, ["run", "build"]]:
        npm = shutil.which("npm") or "npm"
        done = subprocess.run(
            [npm, *arguments], cwd=js, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"`npm {' '.join(arguments)}` in js/ failed with exit code {done.returncode}:\n"
                f"{done.stdout}{done.stderr}"
            )


def description(readme: str, source: str = "") -> str:
    """The README for readers who do not have its repository's files.

    Args:
        readme: The README, in Markdown.
        source: The address of the repository's files; without it, links to them become text, and
            pictures are left out.
    """

    def link(found: re.Match[str]) -> str:
        text, target = found.groups()
        if re.match(r"[a-z]+:", target):
            return found[0]
        return f"[{text}]({source}/{target})" if source and not target.startswith("#") else text

    # What is in code stays as it is.
    parts = re.split(r"(^```.*?^```$|`[^`\n]+`(?!\]))", readme, flags=re.M | re.S)
    for at in range(0, len(parts), 2):
        text = re.sub(r"<picture>.*?</picture>\n*", "", parts[at], flags=re.S)
        parts[at] = re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)
    return "".join(parts)


class DescriptionHook(MetadataHookInterface):
    """Hatchling calls it for the project's metadata."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description."""
        root = Path(self.root)
        text = (root / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source", "")
        files = f"{source.rstrip('/')}/blob/HEAD" if source else ""
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": description(text, files),
        }


class BundleHook(BuildHookInterface[Any]):
    """Hatchling calls it before each target."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the bundle if it is missing or older than its sources."""
        root = Path(self.root)
        if bundle_is_current(root):
            return
        problem = node_problem()
        if problem is not None:
            if all((root / name).is_file() for name in BUNDLE):
                self.app.display_warning(f"{problem} The bundle that is there is used as it is.")
                return
            self.app.abort(problem)
        try:
            build_bundle(root)
        except RuntimeError as error:
            self.app.abort(str(error))
