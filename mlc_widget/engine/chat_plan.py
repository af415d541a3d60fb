"""What one chat request needs beyond plain generation: tools, thinking, a grammar, a parser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.answer import AnswerParser
from mlc_widget.engine.jinja_conversation import JinjaConversation
from mlc_widget.engine.model import LoadedModel
from mlc_widget.engine.reasoning import NO_THOUGHT, OPEN, ReasoningParser
from mlc_widget.engine.text.prompt_text import PromptText, markup
from mlc_widget.engine.tool_parser import ToolCallParser
from mlc_widget.engine.tools import Tools, jinja_messages, read_tools, render_messages


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """How a request's answers are constrained and read.

    Attributes:
        prompt: A chat's prompt, with tools and calls written into it.
        grammar: The grammar that the text must match.
        tools: The tools that may be called.
        untagged: Whether an answer that is one call without its tags is a call.
        thinks: Whether thoughts are separated from the answer.
        inside: Whether the prompt ends inside a thought.
    """

    prompt: PromptText = field(default_factory=PromptText)
    grammar: str | None = None
    tools: Tools | None = None
    untagged: bool = True
    thinks: bool = False
    inside: bool = False

    def parser(self, request_id: str, choice: int) -> AnswerParser:
        """Make the parser of one choice."""
        return AnswerParser(
            ReasoningParser(inside=self.inside) if self.thinks else None,
            ToolCallParser(self.tools.format, self.tools.names, untagged=self.untagged)
            if self.tools
            else None,
            f"{request_id}/{choice}",
        )


def plan(kind: str, model: LoadedModel, request: Mapping[str, Any]) -> AnswerPlan:
    """The plan of a checked request of kind ``chat`` or ``completion``."""
    return plan_chat(model, request) if kind == "chat" else plan_completion(model, request)


def plan_completion(model: LoadedModel, request: Mapping[str, Any]) -> AnswerPlan:
    """The plan of a checked text completion.

    Raises:
        BadRequestError: `response_format` is malformed.
    """
    return AnswerPlan(grammar=_grammar(model, request, None, thinks=False, inside=False))


def _prompt(model: LoadedModel, request: Mapping[str, Any], tools: Tools | None) -> PromptText:
    """The prompt of a chat; most Jinja templates write tools, calls and results themselves."""
    template, longest = model.template, model.longest_prompt
    if not isinstance(template, JinjaConversation):
        return template.render(render_messages(request["messages"], tools, template), longest)
    variables = {}
    if template.knows_thinking and request.get("enable_thinking") is not None:
        variables["enable_thinking"] = request["enable_thinking"]
    messages, offered = jinja_messages(request["messages"], tools, template)
    last = request["messages"][-1]
    continued = last["role"] == "assistant" and not last.get("tool_calls")
    return template.render(messages, longest, tools=offered, continued=continued, **variables)


def plan_chat(model: LoadedModel, request: Mapping[str, Any]) -> AnswerPlan:
    """The plan of a checked chat request; compiles grammars, which may take a while.

    Raises:
        BadRequestError: A schema, grammar, tool or call is malformed; `param` names it.
        UnsupportedFieldError: The model or its runtime cannot do what is asked for.
    """
    template = model.template
    tools = read_tools(request, template)
    prompt = _prompt(model, request, tools)
    can_think = model.tokenizer.token_to_id(OPEN) is not None
    wanted = request.get("enable_thinking")
    if wanted and not can_think:
        raise UnsupportedFieldError(
            f"enable_thinking = True: {model.model_id} is not a thinking model; leave it out.",
            param="enable_thinking",
        )
    end = prompt.pieces[-1]
    inside = end.is_markup and end.text.rstrip().endswith(OPEN)
    quiet = can_think and wanted is False and not inside
    begun = not end.is_markup  # the request begins the answer, so the model is past its thoughts
    quiet = quiet and not begun
    thinks = can_think and not quiet and not begun
    shown = quiet and isinstance(template, JinjaConversation) and template.knows_thinking
    return AnswerPlan(
        prompt=prompt + markup(NO_THOUGHT) if quiet and not shown else prompt,
        grammar=_grammar(model, request, tools, thinks=thinks, inside=inside),
        tools=tools,
        untagged=not _wants_format(request),
        thinks=thinks,
        inside=inside,
    )


def _wants_format(request: Mapping[str, Any]) -> bool:
    wanted = request.get("response_format")
    return wanted is not None and wanted.get("type") != "text"


def _grammar(
    model: LoadedModel,
    request: Mapping[str, Any],
    tools: Tools | None,
    *,
    thinks: bool,
    inside: bool,
) -> str | None:
    if not model.runtime.capabilities.grammars:
        if tools is not None and tools.forced:
            raise UnsupportedFieldError(
                f"tool_choice = {request['tool_choice']!r}: the {model.runtime.name} runtime "
                "cannot force a call; use auto.",
                param="tool_choice",
            )
        return None
    wanted = request["response_format"] if _wants_format(request) else None
    if wanted is None and tools is None:
        return None
    # Its imports would keep every engine from starting for as long as they take.
    from mlc_widget.engine.answer_grammar import answer_grammar

    return answer_grammar(wanted, tools, thinks=thinks, inside=inside)
