"""What WebLLM's worker proxy gets wrong (0.2.83; some of it is mended since), and what shows that
ours does not: a table, so that each can be found, and a test that the table is true.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

FAULTS: dict[str, tuple[str, ...]] = {
    "an abandoned stream keeps the model's lock forever": (
        "conformance/test_control.py::test_the_next_request_after_an_abandoned_stream_is_answered",
        "proxy/test_kernel_engine.py::test_garbage_collection_stops_the_engine",
        "worker/test_handler.py::test_a_client_that_goes_takes_its_work_along",
        "web_llm/client.mjs::an early break frees the model",
    ),
    "a stale interrupt flag empties the next call (#447)": (
        "conformance/test_control.py::test_an_interrupt_with_nothing_to_interrupt_leaves_no_trace",
        "proxy/test_kernel_engine.py::test_interrupt_ends_what_runs_and_nothing_after_it",
        "web_llm/client.mjs::interrupt ends a stream",
    ),
    "one request alone cannot be ended": (
        "conformance/test_control.py::test_abort_ends_one_stream_by_its_id",
        "worker/test_handler.py::test_a_request_that_is_aborted_before_it_begins",
    ),
    "errors cross as a bare text, without class, code and traceback": (
        "protocol/test_errors.py::test_every_class_arrives_as_itself",
        "proxy/test_kernel_engine.py::test_an_error_in_the_middle_reaches_the_reader",
    ),
    "an unknown kind is never answered": (
        "worker/test_handler.py::test_an_unknown_kind_is_answered",
        "worker/test_handler.py::test_a_malformed_message_is_answered",
        "worker/test_handler.py::test_a_thousand_random_messages_are_each_answered_once",
        "web_llm/client.mjs::errors are readable texts",
    ),
    "a dead worker leaves every promise pending": (
        "proxy/test_worker_life.py::test_death_in_a_stream_is_told_at_once",
    ),
    "the models of a reload that a request made needful are not remembered (#852)": (
        "worker/test_handler.py::test_a_reload_for_a_request_is_remembered_and_a_failed_one_is_not",
        "web_llm/client.mjs::what another client loaded is replaced",
    ),
    "chatOpts are not compared": (
        "worker/test_handler.py::test_requests_that_find_another_model_share_one_reload",
    ),
    "a failed or aborted reload is recorded as loaded": (
        "worker/test_handler.py::test_a_reload_for_a_request_is_remembered_and_a_failed_one_is_not",
        "proxy/test_reload.py::test_a_first_load_that_fails_leaves_the_worker_usable",
        "web_llm/client.mjs::unload, and load again",
    ),
    "concurrent reloads are neither serialised nor aborted (#484)": (
        "proxy/test_reload.py::test_the_newest_reload_wins",
        "proxy/test_cancelled_loads.py::test_loads_ended_at_any_moment_leave_the_newest",
    ),
    "a load cannot be cancelled (#499)": (
        "engine/store/test_hub.py::test_a_worker_downloads_loads_and_answers",
        "proxy/test_cancelled_loads.py::test_a_load_is_ended_while_it_compiles",
        "proxy/test_reload.py::test_a_load_can_be_ended",
    ),
    "two engines made at once may be silently empty (#821)": (
        "proxy/test_reload.py::test_two_engines_made_at_once_both_answer",
    ),
    "two streams on one model overwrite each other": (
        "conformance/test_control.py::test_streams_read_at_once_do_not_mix",
        "worker/test_handler.py::test_messages_of_a_stream_may_not_share_an_id",
        "web_llm/client.mjs::two streams at once",
    ),
    "bytes, speed and time left of a load are only in a text": (
        "proxy/test_kernel_engine.py::test_progress_rises_to_one_before_reload_returns",
    ),
    "a load from the cache tells no progress (#710, mlc-llm #3014)": (
        "conformance/test_state.py::test_progress_is_reported",
    ),
    "weights are not covered by the integrity check": (
        "engine/store/test_tensor_cache.py::test_verify_finds_a_changed_byte_and_reports_progress",
        "engine/runtimes/tvm/test_loading.py::test_a_shard_that_is_damaged",
        "proxy/test_bad_folders.py::test_a_bad_folder_gives_one_clear_error",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_tests(fault: str) -> None:
    for shown in FAULTS[fault]:
        path, _, name = shown.partition("::")
        text = (TESTS / path).read_text(encoding="utf-8")
        begin = f'async "{name}"(' if path.endswith(".mjs") else f"def {name}"
        assert begin in text, f"{path} has no {name}"
