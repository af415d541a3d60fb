"""A grammar that crashes its compiler, or keeps it busy forever, fails only its own request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine import grammar_check
from mlc_widget.engine.grammar_check import GrammarChecker
from mlc_widget.engine.structured_output import response_grammar

from ..kinds import but_for_soak
from .conftest import chat
from .grammars import schema_grammar, takes_value


def chain(rules: int, line: str, first: str, last: str) -> str:
    return "\n".join([first, *(line.format(i, i + 1) for i in range(rules)), last.format(rules)])


def nested(levels: int):
    schema = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


CRASHES = {
    "Lark rules in a row": {"grammar": chain(3000, 'r{}: "x" r{}', "start: r0", 'r{}: "x"')},
    "EBNF rules in a row": {
        "grammar": chain(2000, 'r{} ::= "x" r{}', "root ::= r0", 'r{} ::= "x"')
    },
    "terminals in a row": {"grammar": chain(3000, 'A{}: "x" A{}', "start: A0", 'A{}: "x"')},
    "int64's minimum in JSON": {"grammar": 'start: %json {"const": -9223372036854775808}'},
    "the same in an enum": {"grammar": 'start: "a" %json {"enum": [1, -9223372036854775808]}'},
}
REFUSED = {
    "a long regex": {"regex": "a" * 10**6},
    "parentheses in EBNF": {"grammar": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000},
    "parentheses in Lark": {"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000},
    "nested repetitions": {"regex": "((a{0,50}){0,50}){0,50}"},
    "a long grammar": {"grammar": 'start: "' + "a" * 10**6 + '"'},
    "deep parentheses": {"regex": "(" * 4000 + "a" + ")" * 4000},
}


@pytest.mark.parametrize("name", but_for_soak([*CRASHES, *REFUSED], "EBNF rules in a row"))
def test_a_hostile_grammar_is_a_bad_request(name):
    wanted = {**CRASHES, **REFUSED}[name]
    [kind] = wanted
    with pytest.raises(BadRequestError) as caught:
        response_grammar({"type": kind, **wanted})
    assert caught.value.param == f"response_format.{kind}"
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"const": "a" * 200_000}, "const"),
        ({"enum": ["a" * 90_000, "b" * 90_000]}, "enum"),
        ({"enum": [f"word {i}" for i in range(20_000)]}, "enum"),
        ({"const": {"a": [["b" * 70_000]]}}, "const"),
        ({"properties": {"a": {"minItems": 10**9, "type": "array"}}}, "properties.a.minItems"),
        ({"type": "string", "minLength": 10**12}, "minLength"),
        ({"type": "string", "pattern": "a" * 10**5}, "pattern"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
         "$defs.a"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"not": {"$ref": "#/$defs/a"}}]}}},
         "$defs.a"),
        ({"anyOf": [{"type": "string"}, {"$ref": "#"}]}, ""),
        ("[" * 10**6, ""),
        ('{"items":' * 5000 + "true" + "}" * 5000, ""),
    ],
)  # fmt: skip
def test_what_is_too_large_is_refused_before_it_is_compiled(schema, path, monkeypatch):
    monkeypatch.setattr(GrammarChecker, "_ask", None)
    with pytest.raises(BadRequestError) as caught:
        response_grammar({"type": "json_object", "schema": schema})
    assert caught.value.param.startswith(f"response_format.schema{path and '.'}{path}"[:80])


def test_chains_of_references_are_followed_however_long():
    names = [f"a{i}" for i in range(300)]
    links = {a: {"$ref": f"#/$defs/{b}"} for a, b in itertools.pairwise(names)}
    schema = {"$ref": "#/$defs/a0", "$defs": {**links, "a299": {"const": 5}}}
    assert takes_value(schema, "5")
    boxes = {
        a: {"type": "object", "properties": {"x": {"$ref": f"#/$defs/{b}"}}, "required": ["x"]}
        for a, b in itertools.pairwise(names)
    }
    deep = '{"x":' * 299 + "5" + "}" * 299
    assert takes_value({**schema, "$defs": {**boxes, "a299": {"const": 5}}}, deep)
    assert takes_value(nested(90), "[" * 90 + "]" * 90)


async def test_neighbours_of_a_crash_go_on(shared_engine):
    async def hostile(wanted):
        [kind] = wanted
        with pytest.raises(BadRequestError):
            await chat(shared_engine, "?", response_format={"type": kind, **wanted})

    digits = {"type": "regex", "regex": "[0-9]{20}"}
    good, *_ = await asyncio.gather(
        chat(shared_engine, "?", response_format=digits, max_tokens=100),
        *map(hostile, CRASHES.values()),
    )
    assert len(good.choices[0].message.content) == 20


def test_a_grammar_is_compiled_once():
    checker, asked = GrammarChecker(), []
    ask = checker._ask
    checker._ask = lambda question: asked.append(question) or ask(question)
    try:
        grammars = [json.dumps({"grammars": [{"lark_grammar": f'start: "{a}"'}]}) for a in "abab"]
        assert [checker.problem(g) for g in grammars] == [""] * 4
        assert len(asked) == 2
        crash = json.dumps(
            {"grammars": [{"lark_grammar": CRASHES["terminals in a row"]["grammar"]}]}
        )
        assert checker.problem(crash) == checker.problem(crash) == grammar_check.CRASHED
        assert len(asked) == 3
    finally:
        checker.close()


def test_a_child_that_was_ended_is_replaced():
    checker = GrammarChecker()
    try:
        assert checker.is_satisfiable('start: "a"')
        [child] = checker._idle
        child.kill()
        child.wait()
        assert not checker.is_satisfiable('start: A\nA: "a" & "b"')
        assert checker._idle != [child]
    finally:
        checker.close()


def test_what_runs_away_is_ended(monkeypatch):
    monkeypatch.setattr(grammar_check, "_WALL_S", 0.0)
    checker = GrammarChecker()
    try:
        assert checker.problem('{"grammars": [{"lark_grammar": "start: /a/"}]}') in (
            grammar_check.CRASHED, "",
        )  # fmt: skip
    finally:
        checker.close()


def test_an_ended_notebook_leaves_no_child():
    import subprocess
    import sys

    script = (
        "from mlc_widget.engine.grammar_check import CHECKER\n"
        "import os, signal\n"
        "assert CHECKER.is_satisfiable('start: \"a\"')\n"
        "print(CHECKER._idle[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(made.stdout)).wait(30)


def test_schemas_of_large_objects_are_written_flat():
    names = [f"p{i}" for i in range(600)]
    schema = {"type": "object", "properties": {n: {"type": "integer"} for n in names},
              "additionalProperties": False}  # fmt: skip
    assert takes_value(schema, '{"p1":1,"p300":2,"p599":3}')
    assert not takes_value(schema, '{"p300":1,"p1":2}')
    assert takes_value({**schema, "required": names}, json.dumps(dict.fromkeys(names, 5)))
    assert schema_grammar({"enum": [f"word {i}" for i in range(3000)]})
