"""The files of this repository that GitHub, pip and release tools read are consistent."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


def pinned() -> dict[str, set[Version]]:
    pins: dict[str, set[Version]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            pins.setdefault(canonicalize_name(requirement.name), set()).add(
                Version(specifier.version)
            )
    return pins


def requirements(extra: str, seen: frozenset[str] = frozenset()) -> list[Requirement]:
    """What an extra asks for, with the extras of ours that it names."""
    found = []
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            for inner in requirement.extras - seen:
                found += requirements(inner, seen | {extra})
        else:
            found.append(requirement)
    return found


def test_every_supported_python_is_tested_and_declared() -> None:
    test = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    tested = test["jobs"]["test"]["strategy"]["matrix"]["python"]
    declared = [
        found.group(1)
        for text in PROJECT["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text))
    ]
    assert tested == declared
    assert all(version in SpecifierSet(PROJECT["requires-python"]) for version in tested)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_is_there(workflow: Path) -> None:
    commands = [step["run"] for step in steps(workflow) if "run" in step]
    assert commands
    for command in commands:
        assert set(re.findall(r"\bmake ([a-z]+)", command)) <= TARGETS, command
        for script in re.findall(r"[\w./]+\.py", command):
            assert (ROOT / "docs" / script).is_file() or (ROOT / script).is_file(), command


def test_make_help_and_contributing_name_the_same_targets() -> None:
    helped = set(re.findall(r'^\t@echo "make ([a-z]+)', MAKEFILE, re.MULTILINE))
    described = set(
        re.findall(r"^\| `make ([a-z]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    )
    assert helped == described
    assert helped <= TARGETS


def test_every_requirement_of_development_is_pinned_to_a_version_that_it_allows() -> None:
    pins = pinned()
    wanted = [Requirement(text) for text in PROJECT["dependencies"]]
    for requirement in [*wanted, *requirements("dev"), *requirements("release")]:
        versions = pins.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement}: run `make lock`"
        for version in versions:
            assert version in requirement.specifier, f"{requirement}, not {version}: `make lock`"


def test_the_lock_names_no_registry() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"://|^\s*-", text, re.MULTILINE)


def test_both_halves_have_one_version() -> None:
    version: dict[str, str] = {}
    exec((ROOT / "mlc_widget" / "_version.py").read_text(), version)
    package = json.loads((ROOT / "js" / "package.json").read_text())
    lock = json.loads((ROOT / "js" / "package-lock.json").read_text())
    assert package["version"] == lock["version"] == version["__version__"]
    assert f"## {version['__version__']}" in (ROOT / "CHANGELOG.md").read_text()
