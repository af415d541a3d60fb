"""JSON schemas as people write them: a hundred valid ones, and fifty malformed ones."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STR: Schema = {"type": "string"}
INT: Schema = {"type": "integer"}
NUM: Schema = {"type": "number"}
BOOL: Schema = {"type": "boolean"}
DATE: Schema = {"type": "string", "format": "date"}
DATETIME: Schema = {"type": "string", "format": "date-time"}
EMAIL: Schema = {"type": "string", "format": "email"}
URI: Schema = {"type": "string", "format": "uri"}
UUID: Schema = {"type": "string", "format": "uuid"}
SCORE: Schema = {"type": "number", "minimum": 0, "maximum": 1}


def one_of(*values: Any) -> Schema:
    return {"enum": list(values)}


def array(items: Any, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str, where: str = "$defs") -> Schema:
    return {"$ref": f"#/{where}/{name}"}


def record(**properties: Any) -> Schema:
    """An object with exactly these properties, as OpenAI's strict mode wants it."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def optional(**properties: Any) -> Schema:
    """An object with some of these properties."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def loose(required: list[str], **properties: Any) -> Schema:
    """An object that may have other properties, too."""
    return {"type": "object", "properties": properties, "required": required}


def pattern(regex: str, **more: Any) -> Schema:
    return {"type": "string", "pattern": regex, **more}


def tagged(key: str, **kinds: Schema) -> Schema:
    """A union discriminated by a constant, as pydantic writes it."""
    defs = {}
    for name, schema in kinds.items():
        properties = {key: {"const": name}, **schema["properties"]}
        defs[name] = {
            **schema,
            "properties": properties,
            "required": [key, *schema.get("required", [])],
        }
    return {
        "oneOf": [ref(name) for name in kinds],
        "discriminator": {"propertyName": key, "mapping": {n: f"#/$defs/{n}" for n in kinds}},
        "$defs": defs,
    }


EXTRACTION: dict[str, Schema] = {
    "person": record(name=STR, age={"type": "integer", "minimum": 0, "maximum": 130}),
    "contact": record(name=STR, email=EMAIL, phone=maybe(pattern(r"^\+?[0-9 ]{5,15}$"))),
    "calendar event": record(title=STR, date=DATE, participants=array(STR)),
    "sentiment": record(label=one_of("positive", "neutral", "negative"), confidence=SCORE),
    "classification": array(record(label=one_of("bug", "docs"), score=SCORE), maxItems=3),
    "named entities": record(
        entities=array(record(text=STR, kind=one_of("PER", "ORG", "LOC"), start=INT, end=INT))
    ),
    "keywords": array(STR, minItems=1, maxItems=5),
    "summary": record(title={"type": "string", "maxLength": 40}, points=array(STR, maxItems=4)),
    "reasoning steps": record(
        steps=array(record(explanation=STR, output=STR), minItems=1, maxItems=3), final_answer=STR
    ),
    "quiz": record(
        question=STR,
        options=array(STR, minItems=4, maxItems=4),
        answer={"type": "integer", "minimum": 0, "maximum": 3},
    ),
    "translation": record(source=STR, target=STR, language=pattern("^[a-z]{2}(-[A-Z]{2})?$")),
    "moderation": record(flagged=BOOL, categories=record(hate=SCORE, violence=SCORE, spam=SCORE)),
    "paper": record(
        title=STR,
        authors=array(STR, minItems=1),
        year={"type": "integer", "minimum": 1900, "maximum": 2100},
        doi=maybe(pattern(r"^10\.[0-9]{4,9}/[a-z0-9.]{1,20}$")),
    ),
    "citation": record(key=pattern("^[a-z]+[0-9]{4}$"), pages=maybe(STR), volume=maybe(INT)),
    "recipe": record(
        name=STR,
        servings={"type": "integer", "exclusiveMinimum": 0},
        ingredients=array(
            record(item=STR, quantity=NUM, unit=one_of("g", "ml", "piece")), minItems=1
        ),
        steps=array(STR),
    ),
    "resume": record(
        name=STR,
        skills=array(STR, maxItems=6),
        jobs=array(record(company=STR, start=DATE, end=maybe(DATE)), maxItems=2),
    ),
    "receipt": record(
        merchant=STR,
        total={"type": "number", "minimum": 0},
        currency=pattern("^[A-Z]{3}$"),
        lines=array(record(text=STR, amount=NUM), maxItems=3),
    ),
    "medical note": record(
        complaint=STR, vitals=record(pulse=INT, temperature=NUM), medication=array(STR)
    ),
    "lease": record(
        tenant=STR, rent={"type": "number", "multipleOf": 0.5, "minimum": 0}, starts=DATE
    ),
    "movie review": record(rating={"type": "integer", "enum": [1, 2, 3, 4, 5]}, text=STR),
}

CALLS: dict[str, Schema] = {
    "weather": record(city=STR, unit=one_of("celsius", "fahrenheit")),
    "weather, loosely": loose(["city"], city=STR, unit=one_of("celsius", "fahrenheit")),
    "web search": optional(query=STR, top_k={"type": "integer", "minimum": 1, "maximum": 10}),
    "send mail": record(to=array(EMAIL, minItems=1), subject=STR, body=STR, cc=array(EMAIL)),
    "sql": record(query=STR, parameters=array({"type": ["string", "number", "boolean", "null"]})),
    "shell": record(command=array(STR, minItems=1), timeout_s=maybe(NUM)),
    "edit file": record(path=STR, edits=array(record(line=INT, text=STR), minItems=1, maxItems=2)),
    "plot": record(
        kind=one_of("line", "bar", "scatter"),
        x=array(NUM, maxItems=5),
        y=array(NUM, maxItems=5),
        title=maybe(STR),
    ),
    "reminder": record(text=STR, at=DATETIME, repeat=one_of(None, "daily", "weekly")),
    "book in_flight": record(
        origin=pattern("^[A-Z]{3}$"),
        destination=pattern("^[A-Z]{3}$"),
        date=DATE,
        passengers={"type": "integer", "minimum": 1, "maximum": 9},
    ),
    "no arguments": record(),
    "any arguments": {"type": "object"},
    "calculator": record(expression=pattern(r"^[0-9]+( [-+*/] [0-9]+){0,3}$")),
    "convert": record(value=NUM, source=one_of("m", "ft"), target=one_of("m", "ft")),
    "http request": record(
        method=one_of("GET", "POST", "PUT", "DELETE"),
        url=URI,
        headers={"type": "object", "additionalProperties": STR, "maxProperties": 3},
    ),
    "light": record(
        on=BOOL,
        brightness={"type": "integer", "minimum": 0, "maximum": 100},
        colour=pattern("^#[0-9a-f]{6}$"),
    ),
    "python": record(code=STR),
    "agent action": tagged(
        "action",
        search=record(query=STR),
        click=record(x=INT, y=INT),
        finish=record(answer=STR),
    ),
    "several calls": array(
        {
            "anyOf": [
                record(name={"const": "a"}, arguments=record(x=INT)),
                record(name={"const": "b"}, arguments=record(y=STR)),
            ]
        },
        minItems=1,
        maxItems=2,
    ),
    "handoff": record(to=one_of("billing", "support", "sales"), reason=STR, urgent=BOOL),
}

PYDANTIC: dict[str, Schema] = {
    "user with address": {
        "$defs": {
            "Address": {
                "properties": {
                    "street": {"title": "Street", "type": "string"},
                    "zip": {"title": "Zip", "type": "string", "pattern": "^[0-9]{5}$"},
                },
                "required": ["street", "zip"],
                "title": "Address",
                "type": "object",
            }
        },
        "properties": {
            "id": {"title": "Id", "type": "integer"},
            "address": {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}], "default": None},
            "tags": {"default": [], "items": {"type": "string"}, "title": "Tags", "type": "array"},
        },
        "required": ["id"],
        "title": "User",
        "type": "object",
        "additionalProperties": False,
    },
    "enum by reference": {
        "$defs": {"Colour": {"enum": ["red", "green"], "title": "Colour", "type": "string"}},
        **record(colour=ref("Colour"), other=ref("Colour")),
    },
    "self reference": {
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {"value": INT, "next": maybe(ref("Node"))},
                "required": ["value", "next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/Node",
    },
    "tree": {
        "$defs": {
            "Tree": record(
                name={"type": "string", "maxLength": 8},
                children=array({"$ref": "#/$defs/Tree"}, maxItems=1),
            )
        },
        "$ref": "#/$defs/Tree",
    },
    "shapes": tagged("kind", circle=record(radius=NUM), square=record(side=NUM)),
    "list of unions": array({"anyOf": [INT, STR, BOOL]}, maxItems=5),
    "dictionary of numbers": {"type": "object", "additionalProperties": NUM},
    "dictionary of models": {
        "type": "object",
        "additionalProperties": record(n=INT),
        "minProperties": 1,
        "maxProperties": 3,
    },
    "tuple": {"type": "array", "prefixItems": [STR, INT, BOOL], "items": False, "minItems": 3},
    "constrained numbers": record(
        a={"type": "integer", "exclusiveMinimum": 3, "maximum": 9},
        b={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        c={"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    ),
    "constrained strings": record(
        a={"type": "string", "minLength": 2, "maxLength": 6},
        b={"type": "string", "maxLength": 0},
        c=pattern("^(yes|no)$"),
    ),
    "dates": record(
        day=DATE,
        at=DATETIME,
        time={"type": "string", "format": "time"},
        took={"type": "string", "format": "duration"},
    ),
    "addresses of machines": record(
        v4={"type": "string", "format": "ipv4"},
        v6={"type": "string", "format": "ipv6"},
        host={"type": "string", "format": "hostname"},
    ),
    "identifiers": record(id=UUID, parent=maybe(UUID)),
    "nested optionals": optional(a=optional(b=optional(c=maybe(INT)))),
    "literal": record(version={"const": 2}, kind={"const": "report"}, ok={"const": True}),
    "generic page": record(
        items=array(record(id=INT), maxItems=3), next=maybe(STR), total={"type": "integer"}
    ),
    "root list": array(record(x=NUM, y=NUM), minItems=2, maxItems=2),
    "root string": {"type": "string", "minLength": 1, "maxLength": 20},
    "root enum": one_of("low", "medium", "high", 0, None),
}

DOCUMENTS: dict[str, Schema] = {
    "package.json": loose(
        ["name", "version"],
        name=pattern("^[a-z][a-z0-9-]{0,20}$"),
        version=pattern(r"^[0-9]+\.[0-9]+\.[0-9]+$"),
        private=BOOL,
        scripts={"type": "object", "additionalProperties": STR},
        dependencies={"type": "object", "additionalProperties": pattern(r"^\^?[0-9.]{1,9}$")},
    ),
    "tsconfig": optional(
        compilerOptions=optional(strict=BOOL, target=one_of("es2020", "esnext"), outDir=STR),
        include=array(STR, maxItems=3),
    ),
    "workflow": record(
        name=STR,
        on=array(one_of("push", "pull_request"), minItems=1, maxItems=2),
        jobs={
            "type": "object",
            "additionalProperties": record(
                **{"runs-on": one_of("ubuntu-latest", "macos-latest")},
                steps=array({"anyOf": [record(run=STR), record(uses=STR)]}, maxItems=2),
            ),
            "maxProperties": 2,
        },
    ),
    "compose": record(
        services={
            "type": "object",
            "patternProperties": {
                "^[a-z]+$": record(image=STR, ports=array(pattern("^[0-9]{2,5}:[0-9]{2,5}$")))
            },
            "additionalProperties": False,
        }
    ),
    "geojson point": record(
        type={"const": "Point"}, coordinates=array(NUM, minItems=2, maxItems=3)
    ),
    "geojson feature": record(
        type={"const": "Feature"},
        geometry={
            "anyOf": [
                record(type={"const": "Point"}, coordinates=array(NUM, minItems=2, maxItems=2)),
                record(
                    type={"const": "LineString"},
                    coordinates=array(array(NUM, minItems=2, maxItems=2), minItems=2, maxItems=3),
                ),
            ]
        },
        properties={"type": "object", "maxProperties": 2},
    ),
    "json patch": array(
        {
            "anyOf": [
                record(op=one_of("add", "replace"), path=pattern("^(/[a-z]{1,5})*$"), value={}),
                record(op={"const": "remove"}, path=pattern("^(/[a-z]{1,5})*$")),
            ]
        },
        maxItems=2,
    ),
    "json-rpc": record(jsonrpc={"const": "2.0"}, method=STR, params=array(INT), id=INT),
    "vega-lite": record(
        mark=one_of("bar", "line"),
        encoding=optional(
            x=record(field=STR, type=one_of("quantitative", "nominal")),
            y=record(field=STR, aggregate=one_of("mean", "sum")),
        ),
    ),
    "openapi component": {
        "type": "object",
        "required": ["id", "status"],
        "properties": {
            "id": {"type": "integer", "format": "int64", "example": 10},
            "price": {"type": "number", "format": "double", "minimum": 0},
            "status": {"type": "string", "description": "pet status", "enum": ["sold", "pending"]},
            "photo": {"type": "string", "format": "binary", "nullable": True},
        },
        "additionalProperties": False,
    },
    "draft 4": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "object",
        "properties": {"n": {"type": "number", "minimum": 0, "exclusiveMinimum": True}},
        "required": ["n"],
    },
    "draft 7 tuple": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [STR, INT],
        "additionalItems": False,
        "minItems": 2,
    },
    "definitions": {
        "definitions": {"positive": {"type": "integer", "minimum": 1}},
        **record(a=ref("positive", "definitions"), b=array(ref("positive", "definitions"))),
    },
    "allOf": {
        "$defs": {"base": loose(["id"], id=INT)},
        "allOf": [ref("base"), loose(["name"], name=STR)],
    },
    "invoice": record(
        number=pattern("^INV-[0-9]{4}$"),
        issued=DATE,
        customer=record(name=STR, vat=maybe(pattern("^[A-Z]{2}[0-9]{8}$"))),
        lines=array(
            record(
                description=STR,
                quantity={"type": "integer", "minimum": 1},
                price={"type": "number", "minimum": 0},
            ),
            minItems=1,
            maxItems=2,
        ),
    ),
    "order": record(
        id=UUID,
        status=one_of("new", "paid", "shipped"),
        payment=tagged("method", card=record(last4=pattern("^[0-9]{4}$")), cash=record())
        | {"$defs": {}},
    ),
    "issue": record(
        title=STR, labels=array(STR, maxItems=3), assignee=maybe(STR), closed=BOOL, number=INT
    ),
    "commit": record(
        sha=pattern("^[0-9a-f]{40}$"), message=STR, parents=array(pattern("^[0-9a-f]{40}$"))
    ),
    "log line": record(
        level=one_of("DEBUG", "INFO", "WARN"), at=DATETIME, fields={"type": "object"}
    ),
    "sensor": record(
        device=pattern("^[A-F0-9]{2}(:[A-F0-9]{2}){5}$"),
        readings=array(record(t=INT, v=NUM), minItems=1, maxItems=4),
    ),
    "chess move": record(move=pattern("^[a-h][1-8][a-h][1-8][qrbn]?$"), comment=maybe(STR)),
    "game state": record(
        board=array(array(one_of("x", "o", " "), minItems=3, maxItems=3), minItems=3, maxItems=3),
        turn=one_of("x", "o"),
    ),
    "form": record(
        fields=array(
            {
                "anyOf": [
                    record(type={"const": "text"}, label=STR),
                    record(type={"const": "select"}, label=STR, options=array(STR, minItems=1)),
                ]
            },
            maxItems=2,
        )
    ),
    "menu": record(
        items=array(
            record(label=STR, items=array(record(label=STR, href=STR), maxItems=2)), maxItems=2
        )
    ),
    "timetable": record(
        **{
            d: array(record(at=pattern("^[0-2][0-9]:[0-5][0-9]$"), what=STR), maxItems=1)
            for d in ("monday", "tuesday", "wednesday")
        }
    ),
    "matrix": array(array(NUM, minItems=2, maxItems=2), minItems=2, maxItems=2),
    "dependency graph": {
        "type": "object",
        "additionalProperties": array(STR, maxItems=2),
        "maxProperties": 3,
    },
    "feature flags": {"type": "object", "additionalProperties": BOOL},
    "colours": record(palette=array(pattern("^#[0-9A-F]{3}([0-9A-F]{3})?$"), maxItems=4)),
    "locale": {
        "type": "object",
        "patternProperties": {"^[a-z]{2}$": STR},
        "additionalProperties": False,
        "minProperties": 1,
    },
    "anything": {},
    "anything but in an object": record(data={}),
    "mixed enum": record(v=one_of(1, 2.5, "three", True, None, [1], {"a": 1})),
    "long enum": record(country=one_of(*[f"{a}{b}" for a in "ABCDEFGHIJ" for b in "KLMNOPQRST"])),
    "escapes": record(**{'quo"te': STR, "back\\slash": INT, "new\nline": BOOL, "é": NUM}),
    "many properties": optional(**{f"property_{i}": INT for i in range(40)}),
    "many required": record(**{f"p{i}": BOOL for i in range(40)}),
    "deep": record(a=record(b=record(c=record(d=record(e=record(f=record(g=INT))))))),
    "empty array": {"type": "array", "maxItems": 0},
    "several types": {"type": ["integer", "string", "null", "array"], "items": BOOL},
}
# A tagged union within a property refers to definitions of the root.
DOCUMENTS["order"]["$defs"] = tagged(
    "method", card=record(last4=pattern("^[0-9]{4}$")), cash=record()
)["$defs"]

GOOD: dict[str, Schema] = {**EXTRACTION, **CALLS, **PYDANTIC, **DOCUMENTS}

MALFORMED: dict[str, tuple[Any, str]] = {
    "not a schema": ([STR], ""),
    "a number": (5, ""),
    "text that is no JSON": ('{"type": "object"', ""),
    "unknown type": ({"type": "strin"}, "type"),
    "types that are no list of types": ({"type": ["string", 5]}, "type"),
    "no types": ({"type": []}, "type"),
    "type is an object": ({"type": {}}, "type"),
    "properties is a list": ({"type": "object", "properties": ["a"]}, "properties"),
    "a property is a string": (loose([], a="string"), "properties.a"),
    "a property is a number": (loose([], a=record(b=7)), "properties.a.properties.b"),
    "a property's type": (record(a=record(b={"type": "int"})), "properties.a.properties.b.type"),
    "required is a string": ({"type": "object", "required": "a"}, "required"),
    "required has a number": ({"type": "object", "required": ["a", 5]}, "required"),
    "required is true": (
        loose([], a={**STR, "required": True}),
        "properties.a.required",
    ),
    "required and not allowed": ({**record(a=STR), "required": ["b"]}, "required"),
    "additionalProperties": ({"additionalProperties": "no"}, "additionalProperties"),
    "items is a string": ({"type": "array", "items": "string"}, "items"),
    "an item's type": (array({"type": "text"}), "items.type"),
    "prefixItems is no list": ({"prefixItems": STR}, "prefixItems"),
    "prefixItems is empty": ({"prefixItems": []}, "prefixItems"),
    "empty enum": ({"enum": []}, "enum"),
    "enum is a string": ({"enum": "abc"}, "enum"),
    "anyOf is an object": ({"anyOf": {"a": STR}}, "anyOf"),
    "anyOf is empty": ({"anyOf": []}, "anyOf"),
    "a branch of anyOf": ({"anyOf": [STR, {"type": "nul"}]}, "anyOf[1].type"),
    "allOf is empty": ({"allOf": []}, "allOf"),
    "oneOf has a string": ({"oneOf": ["string"]}, "oneOf[0]"),
    "unknown reference": ({"$ref": "#/$defs/Missing"}, "$ref"),
    "remote reference": ({"$ref": "https://example.org/schema.json"}, "$ref"),
    "reference is no string": ({"$ref": 5}, "$ref"),
    "reference to no schema": (
        {"$defs": {"a": STR}, **record(b={"$ref": "#/required"})},
        "properties.b.$ref",
    ),
    "$defs is a list": ({"$defs": [STR]}, "$defs"),
    "a definition": ({"$defs": {"A": {"type": "objekt"}}, **STR}, "$defs.A.type"),
    "pattern": (pattern("(unclosed"), "pattern"),
    "pattern is no string": ({"type": "string", "pattern": 5}, "pattern"),
    "pattern that looks ahead": (record(p=pattern("(?=a)b")), "properties.p.pattern"),
    "patternProperties": ({"patternProperties": {"[": STR}}, "patternProperties.["),
    "negative length": ({"type": "string", "minLength": -1}, "minLength"),
    "length is a string": ({"type": "string", "maxLength": "9"}, "maxLength"),
    "length is a fraction": ({"type": "string", "maxLength": 1.5}, "maxLength"),
    "lengths that exclude each other": (
        record(s={"type": "string", "minLength": 5, "maxLength": 2}),
        "properties.s.minLength",
    ),
    "items that exclude each other": (array(STR, minItems=3, maxItems=1), "minItems"),
    "bounds that exclude each other": ({"type": "number", "minimum": 5, "maximum": 1}, "minimum"),
    "minimum is a string": ({"type": "number", "minimum": "0"}, "minimum"),
    "multiple of nothing": ({"type": "number", "multipleOf": 0}, "multipleOf"),
    "format is a list": ({"type": "string", "format": ["date"]}, "format"),
    "not": (record(a={"not": {"format": "date"}}), "properties.a.not"),
    "if": ({"if": {"multipleOf": 3}, "then": {"minimum": 5}}, "if"),
    "uniqueItems": (array(array(STR), uniqueItems=True), "uniqueItems"),
    "unevaluatedProperties": (
        {"allOf": [STR], "unevaluatedProperties": False},
        "unevaluatedProperties",
    ),
}
"""By name: the schema, and the path in it that the error must name."""
