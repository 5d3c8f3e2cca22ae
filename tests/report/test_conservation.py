from iterppo.report.conservation import conservation


def test_counts_that_add_up_hold_and_lost_ones_are_named() -> None:
    counts = {
        "trajectories": {"lines": 4, "lines_taken": 2, "copies": 1, "rejects": 1,
                         "conversations": 2, "messages": 9, "sides": 7, "messages_joined": 1,
                         "messages_cut_after_outcome": 1, "turns": 4,
                         "conversations_terminal": 1, "conversations_censored": 1},
        "returns": {"turns_with_return": 3, "turns_censored": 0},
    }  # fmt: skip

    found = conservation(counts)

    assert [holds for _, holds in found] == [True, True, True, False]
    assert found[-1][0] == "returns: 4 turns is not 3 turns_with_return + 0 turns_censored"


def test_a_line_that_was_neither_taken_nor_a_copy_nor_rejected_is_missed() -> None:
    counts = {"trajectories": {"lines": 4, "lines_taken": 2, "copies": 1, "rejects": 0}}

    assert conservation(counts) == [
        ("trajectories: 4 lines is not 2 lines_taken + 1 copies + 0 rejects", False)
    ]


def test_what_an_older_version_did_not_count_is_not_missed() -> None:
    assert conservation({"trajectories": {"lines": 4, "conversations": 3, "rejects": 1}}) == []


def test_identities_of_artifacts_that_are_not_there_are_left_out() -> None:
    assert conservation({"prompts": {"prompts": 3}}) == []
