from iterppo.report.conservation import conservation


def test_counts_that_add_up_hold_and_lost_ones_are_named() -> None:
    counts = {
        "trajectories": {"lines": 3, "conversations": 2, "rejects": 1, "messages": 9, "sides": 7,
                         "messages_joined": 1, "messages_cut_after_outcome": 1, "turns": 4,
                         "conversations_terminal": 1, "conversations_censored": 1},
        "returns": {"turns_with_return": 3, "turns_censored": 0},
    }  # fmt: skip

    found = conservation(counts)

    assert [holds for _, holds in found] == [True, True, True, False]
    assert found[-1][0] == "returns: 4 turns is not 3 turns_with_return + 0 turns_censored"


def test_identities_of_artifacts_that_are_not_there_are_left_out() -> None:
    assert conservation({"prompts": {"prompts": 3}}) == []
