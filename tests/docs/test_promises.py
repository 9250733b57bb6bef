"""What the pages on faults promise: each paragraph, list item and table row has its tests, named here."""

import re

import pytest

from tests.docs.markdown import ROOT

RELIABILITY = {
    "0": "test_what_is_there",
    "1": "test_a_mistake_of_the_library_shows_its_traceback test_an_exit_in_a_reward_is_no_success",
    "2": "test_bad_input test_no_room_for_a_checkpoint",
    "75": "test_a_rank_is_killed_in_the_middle_of_sampling",
    "129": "test_stopped_while_sampling_and_resumed",
    "130": "test_the_second_ctrl_c_stops_at_once",
    "131": "test_stopped_while_sampling_and_resumed",
    "138": "test_requeued_and_resumed",
    "143": "test_stopped_while_sampling_and_resumed",
    "A run that a signal stops": "test_samplers_give_up_only_when_asked test_nothing_to_save_before_the_first_rollout",
    "Threads and child processes": "test_what_is_left_is_named",
    "SIGTERM, SIGHUP, SIGQUIT": "test_stopped_while_sampling_and_resumed",
    "A second Ctrl-C": "test_the_second_ctrl_c_stops_at_once",
    "SIGHUP, SIGQUIT and SIGUSR1 keep": "test_a_signal_that_is_ignored_stays_ignored",
    "Output that can no longer": "test_a_run_outlives_its_output test_a_reward_that_closes_standard_output",
    "Only one run": "test_a_second_run_in_the_folder_is_refused_and_a_killed_one_does_not_hold_it",
    "If one of several processes": "test_every_rank_stops_and_is_resumed",
    "In validation,": "test_stopped_while_validating_and_resumed",
    "With tensor parallelism": "test_ranks_that_draw_each_token_together_stop_after_the_last",
    "A vLLM engine": "test_a_stop_gives_up_what_was_not_sent",
    "A custom sampler": "test_samplers_give_up_only_when_asked",
    "Signal handlers are installed": "test_handlers_are_put_back"
    " test_a_fit_outside_the_main_thread_leaves_signals_alone",
    "Let SLURM send": "test_requeued_and_resumed",
    "On SIGUSR1 (or": "test_requeued_and_resumed test_a_task_of_an_array_that_slurm_refuses test_preempted",
    "A checkpoint is one file": "test_checkpoints_of_both_kinds_hold_the_run_of_one_process",
    "`last.ckpt` is written": "test_counts_rollouts_and_is_there_at_the_end test_written_once_at_whatever_ends_the_run",
    "`BestCheckpoint` and": "test_put_in_place_of_an_older_one",
    "A file is written": "test_killed_before_any_step_of_replacing test_the_checkpoints_of_users_are_atomic_too",
    "`--ckpt_path last` checks": "test_a_damaged_file_is_passed_over test_a_flipped_bit_in_a_shard_is_found",
    "A full disk ends": "test_no_room_for_a_checkpoint",
    "`config.yaml` is written": "test_a_refused_resume_leaves_the_configuration_alone",
    "A run that was killed": "test_kill_and_resume"
    " test_a_run_that_max_steps_ends_inside_a_rollout_is_resumed_to_the_bit",
    "On another number of processes": "test_on_another_number_of_processes",
    "If the configuration differs": "test_other_options_are_named test_what_cannot_work_is_refused",
    "A checkpoint contains": "test_other_data_and_code_under_the_same_names",
    "Every process tells": "test_reports",
    "The process ended with": "test_a_rank_fails_or_hangs",
    "The process is gone": "test_a_rank_is_killed_in_the_middle_of_sampling",
    "The process is rank 0": "test_a_rank_is_killed_in_the_middle_of_sampling",
    "The `torchrun` that started the process is gone": "test_one_agent_then_both_are_killed",
    "The process kept the others": "test_a_rank_fails_or_hangs",
    "Rank 0 saves": "test_what_rank_0_holds_is_saved_when_another_is_lost"
    " test_a_launched_process_does_not_outlive_its_parent",
    "`timeout_minutes` is 30": "test_a_rank_fails_or_hangs",
}
ENVIRONMENTS = {
    "Tools are type-hinted": "test_a_function_as_a_tool test_prompts_that_cannot_show_tools_are_refused",
    "The calls of a turn": "test_answers_are_what_tools_return test_which_turns_end_an_episode",
    "A call that fails": "test_a_tool_that_fails_is_answered_with_the_error",
    "A mapping as": "test_the_data_choose_among_environments",
    "A turn that has calls": "test_an_environment_is_given_the_calls",
    "Training uses exactly": "test_logprobs_are_those_of_a_teacher_forced_pass test_it_is_what_the_template_writes",
    "Some chat templates change": "test_it_is_what_the_template_writes",
    "Masked tokens count": "test_no_reward_applies_to_what_was_dropped",
    "`sampling.max_new_tokens` limits": "test_no_turn_is_drawn_beyond_the_episodes_budget"
    " test_a_turn_has_a_limit_of_its_own",
    "If prompts are chats": "test_what_a_run_leaves",
    "`TurnSegmenter` makes": "test_equal_turns_after_equal_histories_are_one_step",
    "a tool raises": "test_a_tool_that_fails_is_answered_with_the_error test_a_tool",
    "`Environment.respond` raises": "test_an_environment_that_fails_ends_no_run test_respond",
    "`Environment.reward` raises": "test_an_environment_that_fails_ends_no_run test_reward",
    "`Environment.close` raises": "test_an_environment_that_cannot_be_closed_is_left_alone test_close",
    "`Environment.reset` raises": "test_reset_stops_the_run",
    "a function that is a tool hangs": "test_what_hung_once_is_not_used_again test_a_tool",
    "a function that is a tool ends": "test_a_tool",
    "a method of an object hangs": "test_what_a_call_may_still_change_is_not_used_again test_a_method_of_an_object",
    "a method of an object ends": "test_a_method_of_an_object",
    "`Environment.respond` hangs": "test_an_environment_that_hung_is_not_used_again test_respond",
    "`Environment.respond` or": "test_respond test_reward",
    "`Environment.close` ends": "test_close",
    "`Environment.reset` ends": "test_reset_stops_the_run",
    "a tool or an environment calls": "test_an_environment_that_exits_does_not_end_the_run test_a_tool",
    "an answer is longer": "test_the_whole_answer_has_a_limit test_every_tool_call_keeps_its_message",
    "an answer of `Environment`": "test_what_a_process_sends_runs_nothing_in_the_trainer",
    "every answer fails": "test_an_environment_that_always_fails_ends_the_run",
    "an environment that never": "test_it_is_cut_off_where_there_is_no_end",
    "`reset` gives": "test_members_need_one_task",
    "a template that shows": "test_prompts_that_cannot_show_tools_are_refused",
    "the training process is": "test_no_process_outlives_the_trainer",
    "By default environments": "test_episodes_are_those_of_threads",
    "Each rank (training": "test_episodes_are_those_of_threads",
    "**Episodes that share": "test_environments_share_processes_only_where_there_are_more"
    " test_episodes_that_share_a_process_are_dropped_with_it",
    "**Functions as tools": "test_a_tool",
    "**Imports": "test_it_is_made_in_no_process_before_setup",
    "**Objects": "test_what_cannot_live_in_a_process_is_refused_early test_a_class_of_the_script_is_refused",
    "**Signals": "test_no_process_outlives_the_trainer",
    "**Answers": "test_what_a_process_sends_runs_nothing_in_the_trainer",
    "An environment that draws": "test_nothing_depends_on_the_batch_or_the_number_of_threads",
    "Under tensor parallelism": "test_nothing_depends_on_the_batch_or_the_number_of_threads",
    "If there are tools": "test_the_prompt_shows_tools_and_what_the_environment_says",
    "An environment that returns": "test_turns_pay_in_the_step_that_they_end_in",
    "[`ForkingSampler`]": "test_around_a_forking_sampler_is_refused_by_nothing test_forks_of_episodes_are_refused",
}
"""First words of a promise → its tests."""
SECTIONS = {
    "reliability": ("Exit codes", "Signals", "SLURM", "Checkpoints", "Resume", "When a rank fails or hangs"),
    "environments": (
        "Tools",
        "What is trained",
        "Steps",
        "What goes wrong",
        "Threads or processes",
        "Notes for authors of environments",
    ),
}
NO_PROMISE = (
    "code",
    "Functions and classes that were",
    "SLURM support was tested",
    "event |",
    "Environments run on threads of",
    "These events have",
    "**No sandbox",
)


def promises(page: str) -> list[str]:
    """Paragraphs, list items and table rows of the page's sections."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        if title in SECTIONS[page]:
            body = re.split(r"^### ", body, flags=re.MULTILINE)[0]
            found += [re.sub(r"^(- |\| )", "", b).strip() for b in re.split(r"\n\n+|\n(?=- |\|)", body)]
    return [p for p in found if p and p[0] not in "|-" and not p.startswith(NO_PROMISE)]


@pytest.mark.parametrize(("page", "tests"), [("reliability", RELIABILITY), ("environments", ENVIRONMENTS)])
def test_every_promise_has_its_tests(page: str, tests: dict[str, str]) -> None:
    said = promises(page)
    assert not [p for p in said if not any(p.startswith(words) for words in tests)]
    assert not [words for words in tests if not any(p.startswith(words) for p in said)]
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "plugins").glob("*/tests/*.py")]
    there = set(re.findall(r"^def (test_\w+)", "\n".join(f.read_text() for f in files), flags=re.MULTILINE))
    assert not {name for names in tests.values() for name in names.split()} - there
