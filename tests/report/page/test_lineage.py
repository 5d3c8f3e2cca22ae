from pathlib import Path

from iterppo.report.page.lineage import HEIGHT, WIDTH, read_lineage
from iterppo.report.page.run import read_run
from tests.report.page.made_run import write


def test_arrows_are_inputs_by_content(made_run: Path) -> None:
    found = read_lineage(read_run(made_run))

    assert {(edge.source, edge.target) for edge in found.edges} == {
        ("000/trajectories", "000/returns"),
        ("000/trajectories", "000/q"),
        ("000/returns", "000/q"),
        ("000/trajectories", "000/prompts"),
        ("000/prompts", "000/policy"),
        ("000/q", "000/policy"),
        ("000/init", "000/policy"),
    }


def test_what_was_made_again_since_is_no_longer_an_input(tmp_path: Path) -> None:
    turns = tmp_path / "000" / "trajectories"
    write(turns, "trajectories", "ingest", counts={"turns": 1})
    write(tmp_path / "000" / "returns", "returns", "returns", of=[turns])
    (turns / "manifest.json").write_text(
        (turns / "manifest.json").read_text().replace('"digest": "', '"digest": "0'), "utf-8"
    )

    found = read_lineage(read_run(tmp_path))

    assert found.edges == ()
    (returns,) = (node for node in found.nodes if node.name == "returns")
    assert returns.sources == (f"{turns} (not in this run)",)


def test_nodes_lie_within_the_picture_and_beside_each_other(made_run: Path) -> None:
    found = read_lineage(read_run(made_run))
    places = [(node.x, node.y) for node in found.nodes]

    assert len(set(places)) == len(places) == 8
    assert all(0 <= x <= found.width - WIDTH for x, _ in places)
    assert all(0 <= y <= found.height - HEIGHT for _, y in places)
    assert [band.name for band in found.bands] == ["000", "001"]
