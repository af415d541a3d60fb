"""Structured output: schemas, grammars, tags, and what is refused before work starts."""

from __future__ import annotations

import asyncio
import json
import re

import jsonschema
import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.structured_output import response_grammar

from .conftest import chat, streamed, user
from .grammars import follows
from .schemas import GOOD, MALFORMED

AT = "response_format.schema"


@pytest.fixture
def engine(shared_engine):
    return shared_engine


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.mark.parametrize("step", [2, pytest.param(1, marks=pytest.mark.soak)])
async def test_a_hundred_schemas_give_a_hundred_valid_answers(engine, step):
    """Every other one, and all in `make soak`."""
    assert len(GOOD) == 100
    schemas = dict(list(GOOD.items())[::step])
    gate = asyncio.Semaphore(16)

    async def answer(schema):
        async with gate:
            return await engine.chat.completions.create(
                messages=user("Answer."), response_format=schema_format(schema), seed=4
            )

    answers = await asyncio.gather(*map(answer, schemas.values()))
    for (name, schema), made in zip(schemas.items(), answers, strict=True):
        text = made.choices[0].message.content
        assert made.choices[0].finish_reason == "stop", (name, text)
        # Keywords of earlier drafts mean what they did there.
        jsonschema.validators.validator_for(schema)(modern(schema)).validate(json.loads(text))
    assert len({a.choices[0].message.content for a in answers}) > 0.9 * len(schemas)


def modern(schema):
    """OpenAPI's nullable, which jsonschema does not know."""
    if isinstance(schema, list):
        return [modern(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    made = {k: modern(v) for k, v in schema.items()}
    if made.pop("nullable", False) is True:
        made["type"] = [made["type"], "null"]
    return made


def test_fifty_malformed_schemas_are_refused_by_name():
    assert len(MALFORMED) == 50
    for name, (schema, path) in MALFORMED.items():
        with pytest.raises(BadRequestError) as caught:
            response_grammar({"type": "json_object", "schema": schema})
        expected = f"{AT}.{path}" if path else AT
        assert caught.value.param == expected, name
        assert expected in str(caught.value)


@pytest.mark.parametrize("name", ["unknown type", "a property's type", "not", "unknown reference"])
async def test_a_malformed_schema_is_refused_before_any_step(engine, steps, name):
    count = steps(engine)
    schema, path = MALFORMED[name]
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(BadRequestError) as caught:
        await chat(engine, "?", response_format=wanted)
    assert caught.value.param == f"response_format.json_schema.schema.{path}"
    with pytest.raises(BadRequestError):
        await chat(engine, "?", response_format=wanted, stream=True)
    assert len(count) == 0


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"type": "json_schema"}, "json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}, "json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "json_schema.schema"),
        ({"type": "regex"}, "regex"),
        ({"type": "regex", "regex": "a("}, "regex"),
        ({"type": "grammar"}, "grammar"),
        ({"type": "grammar", "grammar": "root ::= missing"}, "grammar"),
        ({"type": "grammar", "grammar": 'other ::= "a"'}, "grammar"),
        ({"type": "grammar", "grammar": "start: missing"}, "grammar"),
        ({"type": "grammar", "grammar": {"syntax": "yacc", "definition": "a"}}, "grammar.syntax"),
        ({"type": "structural_tag"}, "structures"),
        ({"type": "structural_tag", "structural_tag": "{"}, "structural_tag"),
        ({"type": "structural_tag", "structural_tag": {"format": {"type": "x"}}},
         "structural_tag.format.type"),
        ({"type": "structural_tag", "triggers": ["<a"],
          "structures": [{"begin": "<b>", "schema": {}, "end": "</b>"}]}, "structures[0].begin"),
        ({"type": "structural_tag", "triggers": ["<a"],
          "structures": [{"begin": "<a>", "schema": {"type": 5}, "end": ""}]},
         "structures[0].content.json_schema.type"),
    ],
)  # fmt: skip
async def test_what_is_malformed_is_refused_by_name(engine, wanted, param):
    with pytest.raises(BadRequestError) as caught:
        await chat(engine, "?", response_format=wanted)
    assert caught.value.param == f"response_format.{param}"


async def test_json_without_a_schema_is_an_object(engine):
    for seed in range(5):
        answer = await engine.chat.completions.create(
            messages=user("JSON, please."), response_format={"type": "json_object"}, seed=seed
        )
        assert isinstance(json.loads(answer.choices[0].message.content), dict)


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [
        ({"type": "regex", "regex": "[a-f]{3}-[0-9]+x"}, "[a-f]{3}-[0-9]+x"),
        ({"type": "regex", "regex": "a/b|c"}, "a/b|c"),
        ({"type": "grammar", "grammar": 'root ::= "yes" | "no" why\nwhy ::= " because " [a-z]+'},
         "yes|no because [a-z]+"),
        ({"type": "grammar", "grammar": 'main ::= "a"\n  | "b" main'}, "b*a"),
        ({"type": "grammar", "grammar": 'start: WORD ("," WORD)*\nWORD: /[a-z]{2}/'},
         "[a-z]{2}(,[a-z]{2})*"),
        ({"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: "x"+'}}, "x+"),
        ({"type": "grammar", "grammar": {"syntax": "regex", "definition": "x{3}"}}, "x{3}"),
    ],
)  # fmt: skip
async def test_regular_expressions_and_grammars(engine, wanted, pattern):
    for seed in range(4):
        answer = await engine.chat.completions.create(
            messages=user("?"), response_format=wanted, seed=seed, max_tokens=300
        )
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        if reason == "stop":
            assert re.fullmatch(pattern, text)
        else:
            assert len(text) > 100  # a repetition that the model had no wish to end


TAGS = {
    "structures": [{"begin": "<f=a>", "schema": GOOD["weather"], "end": "</f>"}],
    "triggers": ["<f="],
}


async def test_structural_tags_hold_what_is_marked(engine):
    # The beginning is forced by the prompt's grammar: free text would hardly have it.
    wanted = {
        "type": "structural_tag",
        "structural_tag": {
            "format": {
                "type": "sequence",
                "elements": [
                    {"type": "const_string", "value": "So: "},
                    {
                        "type": "tag",
                        "begin": "<f=a>",
                        "content": {"type": "json_schema", "json_schema": GOOD["weather"]},
                        "end": "</f>",
                    },
                ],
            }
        },
    }
    text = (
        (await chat(engine, "?", response_format=wanted, max_tokens=400, ignore_eos=False))
        .choices[0]
        .message.content
    )
    inner = re.fullmatch(r"So: <f=a>(.*)</f>", text, re.DOTALL)
    jsonschema.validate(json.loads(inner[1]), GOOD["weather"])


@pytest.mark.parametrize("wrapped", [False, True])
def test_structural_tags_leave_other_text_free(wrapped):
    wanted = {"structural_tag": TAGS} if wrapped else TAGS
    grammar = response_grammar({"type": "structural_tag", **wanted})
    good = 'Free < text <f=a>{"city": "Rome", "unit": "celsius"}</f> and more <f=a>'
    assert follows(grammar, good) == len(good)
    for bad, at in [
        ("Some <f=b>", len("Some <f=")),
        ('Some <f=a>{"town"', len('Some <f=a>{"')),
        ('<f=a>{"city": "x", "unit": "kelvin"', len('<f=a>{"city": "x", "unit": "')),
    ]:
        assert follows(grammar, bad) == at


@pytest.mark.parametrize(
    ("format", "good", "bad"),
    [
        ({"type": "or", "elements": [{"type": "const_string", "value": "ab"},
                                     {"type": "regex", "pattern": "[0-9]{2}"}]},
         ["ab", "42"], ["ac", "4x"]),
        ({"type": "tag", "begin": "<a>", "content": {"type": "any_text"}, "end": "</a>"},
         ["<a>x < y</a>"], ["<b>"]),
        ({"type": "sequence", "elements": [{"type": "any_text"},
                                           {"type": "const_string", "value": "END"},
                                           {"type": "grammar", "grammar": "root ::= [0-9]"}]},
         ["textEND7"], ["textENDx"]),
        ({"type": "tags_with_separator", "separator": ",", "at_least_one": True, "tags": [
            {"begin": "(", "content": {"type": "json_schema", "json_schema": {"type": "boolean"}},
             "end": ")"}]},
         ["(true),(false)"], ["(true);", "(5)"]),
        ({"type": "triggered_tags", "triggers": ["<t"], "at_least_one": True,
          "stop_after_first": True, "tags": [
              {"begin": "<t>", "content": {"type": "regex", "pattern": "x+"}, "end": "</t>"}]},
         ["hm <t>xx</t>"], ["<t>y", "<t>x</t> more"]),
    ],
)  # fmt: skip
def test_formats_of_structural_tags(format, good, bad):
    grammar = response_grammar({"type": "structural_tag", "structural_tag": {"format": format}})
    for text in good:
        assert follows(grammar, text) == len(text)
    for text in bad:
        assert follows(grammar, text) < len(text)


async def test_a_seed_gives_one_answer_streamed_and_among_others(engine):
    wanted = schema_format(GOOD["recipe"])
    request = {"response_format": wanted, "ignore_eos": False, "max_tokens": 500, "seed": 8}
    alone = (await chat(engine, "?", **request)).choices[0].message.content
    crowd = await asyncio.gather(
        *(streamed(engine, "?", **request) for _ in range(3)),
        *(chat(engine, f"{i}", max_tokens=60, seed=i) for i in range(5)),
    )
    assert crowd[:3] == [alone] * 3


async def test_items_of_a_set_differ_streamed_in_choices_and_among_others(engine):
    words = {"type": "array", "items": {"type": "string", "maxLength": 1}, "uniqueItems": True}
    wanted = {"response_format": schema_format(words | {"minItems": 30, "maxItems": 30}), "seed": 5}
    wanted |= {"max_tokens": 900, "ignore_eos": False}
    alone = await chat(engine, "?", n=2, **wanted)
    texts = [c.message.content for c in alone.choices]
    for text in texts:
        assert len(set(json.loads(text))) == 30
    among, text, *_ = await asyncio.gather(
        chat(engine, "?", n=2, **wanted),
        streamed(engine, "?", **wanted),
        *(chat(engine, "the weather", seed=i, max_tokens=20) for i in range(3)),
    )
    assert [c.message.content for c in among.choices] == texts
    assert text == texts[0]


async def test_constrained_and_free_requests_share_steps(engine, steps):
    count = steps(engine)
    answers = await count.held(
        *(
            chat(engine, f"{i}", max_tokens=30, response_format={"type": "regex", "regex": "a*"})
            for i in range(4)
        ),
        *(chat(engine, f"{i}", max_tokens=30) for i in range(4)),
    )
    assert all(set(a.choices[0].message.content) == {"a"} for a in answers[:4])
    assert all(set(a.choices[0].message.content) != {"a"} for a in answers[4:])
    assert len(count) <= 30 + 4


async def test_ignore_eos_goes_on_as_long_as_the_grammar_lets_it(engine):
    wanted = {"type": "regex", "regex": "(ab){0,9}"}
    answer = await chat(engine, "?", response_format=wanted, max_tokens=100, ignore_eos=True)
    assert answer.choices[0].message.content == "ab" * 9
    assert answer.choices[0].finish_reason == "stop"


async def test_a_completion_can_be_constrained_too(engine):
    made = await engine.completions.create(
        prompt="Say", response_format={"type": "regex", "regex": "[0-9]{4}"}
    )
    assert re.fullmatch("[0-9]{4}", made.choices[0].text)
    assert made.usage.extra["grammar_init_s"] > 0
    assert made.usage.extra["grammar_per_token_s"] > 0


async def test_log_probabilities_are_of_the_model_not_of_the_grammar(engine):
    wanted = {"type": "regex", "regex": "q"}
    made = await chat(engine, "?", response_format=wanted, logprobs=True, top_logprobs=3)
    [token] = made.choices[0].logprobs.content
    assert token.token == "q"
    assert token.logprob < 0
    assert len(token.top_logprobs) == 3
    assert "q" not in [t.token for t in token.top_logprobs] or token.logprob > -3
