"""The amount of computation, counted in calls of the compiled model and in rows."""

from __future__ import annotations

import asyncio

from mlc_widget.engine.text.prompt_text import markup

from .conftest import assert_no_page_lost, chat, engine_on, runtime_of, streamed, user

TOKENS = 40
LONG = "the weather in Paris is mild today and " * 12


def prompt_length(engine, messages) -> int:
    model = next(iter(engine._core._models))
    return len(model.template.prompt(messages, model.tokenizer))


async def test_eight_requests_share_each_decode_step(engine, steps):
    count = steps(engine)
    await chat(engine, "alone", max_tokens=TOKENS)
    alone = len(count)
    assert alone == TOKENS
    count.clear()
    answers = await count.held(
        *(chat(engine, f"{i} among eight", max_tokens=TOKENS, seed=i) for i in range(8))
    )
    assert [a.usage.completion_tokens for a in answers] == [TOKENS] * 8
    # The first comes alone; the prompts of the others take three steps of 128 tokens at most.
    assert len(count) <= TOKENS + 4
    assert count.rows.count(8) >= TOKENS - 5


async def test_the_second_turn_prefills_only_its_new_tokens(engine, steps):
    count = steps(engine)
    history = user(LONG)
    first = await engine.chat.completions.create(
        messages=history, max_tokens=30, seed=1, ignore_eos=True
    )
    assert sum(count.rows[:-29]) == prompt_length(engine, history) == first.usage.prompt_tokens
    # An answer that comes back as text need not have the tokens it was written with: the end of a
    # turn is asked for by itself, so that the whole first turn can be counted on.
    template = next(iter(engine._core._models)).template
    turn = template.render(history).text + "the answer to the question"
    await engine.completions.create(prompt=turn, max_tokens=1, seed=1)
    longer = turn + template.seps[-1] + "<|im_start|>user\nand today?"
    tokenizer = next(iter(engine._core._models)).tokenizer
    count.clear()
    second = await engine.completions.create(prompt=longer, max_tokens=5, seed=1, ignore_eos=True)
    new = len(tokenizer.encode_prompt(markup(longer))) - len(tokenizer.encode_prompt(markup(turn)))
    assert 0 < new < 30 < second.usage.prompt_tokens
    assert second.usage.prompt_tokens_details.cached_tokens == second.usage.prompt_tokens - new
    assert count.rows == [new, 1, 1, 1, 1]


async def test_a_conversation_through_chat_keeps_its_history(engine, steps):
    count = steps(engine)
    messages = user(LONG)
    for turn in range(3):
        # Letters only, so that the answer's text gives the answer's tokens again.
        answer = await engine.chat.completions.create(
            messages=messages,
            max_tokens=12,
            seed=turn,
            ignore_eos=True,
            response_format={"type": "grammar", "grammar": "root ::= [a-z]+"},
        )
        if turn:
            assert count.rows[0] < 60 < answer.usage.prompt_tokens
            assert (
                answer.usage.prompt_tokens_details.cached_tokens > answer.usage.prompt_tokens - 60
            )
        count.clear()
        reply = answer.choices[0].message.content
        messages = [
            *messages,
            {"role": "assistant", "content": reply},
            {"role": "user", "content": "and then?"},
        ]


async def test_the_choices_of_a_request_compute_its_prompt_once(engine, steps):
    count = steps(engine)
    length = prompt_length(engine, user(LONG))
    answer = await chat(engine, LONG, n=4, max_tokens=10, temperature=1.0)
    assert len({c.message.content for c in answer.choices}) == 4
    # The prompt, its last token once more for three of them, and nine decode steps of all.
    assert count.tokens <= length + 3 + 4 * 9
    alone = [await chat(engine, LONG, n=1, max_tokens=10, temperature=1.0)]
    assert answer.choices[0].message.content == alone[0].choices[0].message.content


async def test_requests_with_one_beginning_compute_it_once(engine, steps):
    count = steps(engine)
    lengths = [prompt_length(engine, user(LONG + f"{i}?")) for i in range(6)]
    await count.held(*(chat(engine, LONG + f"{i}?", max_tokens=1) for i in range(6)))
    assert min(lengths) > 120
    assert count.tokens < max(lengths) + 6 * 40


async def test_a_long_prompt_holds_the_others_up_for_a_chunk_at_most(
    model_folder, cache_dir, steps
):
    async with engine_on(model_folder, cache_dir, prefill_chunk_size=64) as engine:
        count = steps(engine)
        count.pause_after(0)
        first = asyncio.ensure_future(chat(engine, "short", max_tokens=100))
        await count.until_submitted([first])  # or the long one may come before it
        second = asyncio.ensure_future(chat(engine, LONG * 6, max_tokens=1))
        await count.until_submitted([first, second])
        count.go_on()
        short, long = await asyncio.gather(first, second)
        prompts = short.usage.prompt_tokens, long.usage.prompt_tokens
        assert prompts[0] < 64 < 500 < prompts[1]
        # Each step had the short one's row in it, and no more than a chunk: it never waited.
        assert len(count) == 100
        assert max(count.rows) == 64
        assert count.tokens == sum(prompts) + 99 - long.usage.prompt_tokens_details.cached_tokens


async def test_an_abandoned_stream_stops_within_a_step(engine, steps):
    count = steps(engine)
    count.pause_after(20)
    stream = await chat(engine, "endless", max_tokens=1500, stream=True)
    async for _ in stream:
        await count.until_paused()
        break
    await stream.close()
    count.go_on()
    await assert_no_page_lost(engine)
    ran = len(count)
    assert ran <= 21
    await chat(engine, "after", max_tokens=3)
    assert len(count) == ran + 3


async def test_interrupt_ends_everything_within_a_step(engine, steps):
    count = steps(engine)
    count.pause_after(0)
    running = [asyncio.create_task(chat(engine, f"{i}", max_tokens=1500)) for i in range(4)]
    await count.until_submitted(running)
    count.pause_after(20)
    await count.until_paused()
    assert scheduler_running(engine) == 4
    await engine.interrupt_generate()
    answers = await asyncio.gather(*running)  # the model is still held at its step
    assert [a.choices[0].finish_reason for a in answers] == ["abort"] * 4
    count.go_on()
    await assert_no_page_lost(engine)
    assert len(count) <= 21  # the one that it was at


def scheduler_running(engine) -> int:
    return len(runtime_of(engine)._loaded.scheduler._running)


# --- seeds ----------------------------------------------------------------------------------------


async def test_a_seed_gives_one_text_alone_in_a_crowd_and_streamed(engine):
    texts = [f"question {i}: {LONG[: 30 * i]}" for i in range(9)]
    request = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 40}
    alone = [await chat(engine, t, **request, seed=i) for i, t in enumerate(texts)]
    alone = [a.choices[0].message.content for a in alone]
    crowd = await asyncio.gather(*(chat(engine, t, **request, seed=i) for i, t in enumerate(texts)))
    assert [a.choices[0].message.content for a in crowd] == alone
    streams = await asyncio.gather(
        *(streamed(engine, t, **request, seed=i) for i, t in enumerate(texts))
    )
    assert streams == alone
    assert len(set(alone)) == 9


async def test_a_seed_gives_one_text_whatever_the_chunks_and_the_cache(
    engine, model_folder, cache_dir
):
    request = {"temperature": 1.0, "max_tokens": 30, "seed": 5}
    expected = (await chat(engine, LONG, **request)).choices[0].message.content
    for options in (
        {"prefill_chunk_size": 7},
        {"prefix_cache_mode": "disable"},
        {"max_num_sequence": 1},
    ):
        async with engine_on(model_folder, cache_dir, **options) as other:
            assert (await chat(other, LONG, **request)).choices[0].message.content == expected


async def test_without_a_seed_texts_differ(engine):
    texts = {(await chat(engine, "?", seed=None)).choices[0].message.content for _ in range(4)}
    assert len(texts) == 4
