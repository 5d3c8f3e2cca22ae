"""`iterppo returns`: trajectories@1 -> returns@1."""

from pathlib import Path

from iterppo.artifact import ArtifactWriter, Manifest, open_artifact
from iterppo.config import ReturnsConfig
from iterppo.rl.returns import monte_carlo_returns

_COLUMNS = ["conversation_id", "turn", "reward", "censored"]


def run(config: ReturnsConfig, *, trajectories: Path, out: Path) -> Manifest:
    """The return of every turn; none where the conversation is censored."""
    source = open_artifact(trajectories, "trajectories")
    inputs = {"trajectories": source.record()}
    with ArtifactWriter(
        out, kind="returns", stage="returns", config=config, inputs=inputs
    ) as writer:
        for turns in source.conversations(_COLUMNS):
            known = not turns[0]["censored"]
            returns = monte_carlo_returns([turn["reward"] for turn in turns], gamma=config.gamma)
            writer.write(
                {
                    "conversation_id": turn["conversation_id"],
                    "turn": turn["turn"],
                    "reward": turn["reward"],
                    "return": return_ if known else None,
                    "weight": 1.0,
                    "horizon": len(turns) - index if known else None,
                }
                for index, (turn, return_) in enumerate(zip(turns, returns, strict=True))
            )
            writer.count("conversations")
            writer.count("conversations_censored", int(not known))
            writer.count("turns", len(turns))
            writer.count("turns_with_return", len(turns) if known else 0)
            writer.count("turns_censored", 0 if known else len(turns))
    return writer.manifest
