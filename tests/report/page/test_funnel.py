from pathlib import Path

from iterppo.report.page.funnel import read_funnel
from iterppo.report.page.run import read_run
from tests.report.page.made_run import EVIL, write


def test_groups_are_shares_of_their_first_and_losses_are_marked(made_run: Path) -> None:
    found = read_funnel(read_run(made_run).rounds[0])
    groups = {
        unit: [(step.label, step.number, round(step.share, 3), step.is_loss) for step in steps]
        for unit, steps in found.groups
    }

    assert groups["Lines of the log"] == [
        ("read", 41, 1.0, False),
        ("not taken: see rejects", 1, 0.024, True),
        ("taken", 40, 0.976, False),
    ]
    assert groups["Prompts"] == [
        ("states", 80, 1.0, False),
        ("prompts", 80, 1.0, False),
        ("to train on", 7, 0.087, False),
    ]
    assert found.reasons == ((f"bad: {EVIL}", 1),)
    assert all(holds for _, holds in found.identities)


def test_what_is_lost_between_two_stages_is_said(tmp_path: Path) -> None:
    round_ = tmp_path / "000"
    write(round_ / "trajectories", "trajectories", "ingest", counts={"turns": 5})
    write(round_ / "returns", "returns", "returns", counts={"turns_with_return": 4})

    found = read_funnel(read_run(tmp_path).rounds[0])

    assert [holds for _, holds in found.identities] == [False]


def test_a_round_without_counts_has_no_groups(tmp_path: Path) -> None:
    write(tmp_path / "000" / "trajectories", "trajectories", "ingest")

    assert read_funnel(read_run(tmp_path).rounds[0]).groups == ()
