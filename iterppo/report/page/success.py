"""What the policies were worth: success in each round's conversations, and the differences.

trajectories of each round -> Success
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iterppo.logs.arms import Arm, read_arm, together
from iterppo.report.page.run import UNREADABLE, Round, Run
from iterppo.statistics import FEWEST_CONVERSATIONS
from iterppo.statistics.comparison import LEVEL, Question, compare_arms, open_shares
from iterppo.statistics.outcome_effect import Outcomes, outcome_effect

GAMMA = 0.99
"""Of the measure `return`, where a round has no returns of its own to take γ from."""


@dataclass(frozen=True)
class Row:
    """The conversations of a round that one policy held."""

    round_name: str
    policy: str
    """π_k, or the version; those that took turns in one conversation are joined."""
    versions: tuple[str, ...]
    told: Mapping[str, Any]
    """As `iterppo compare` says it: rate, rate_low, rate_high, conversations, …"""
    environment: str
    """Where the conversations were simulated; empty: real ones, as far as is known."""

    @property
    def label(self) -> str:
        """Round and policy, said once where they are called alike."""
        return " ".join(dict.fromkeys((self.round_name, self.policy)))

    @property
    def has_rate(self) -> bool:
        """Whether any of its conversations has ended."""
        return "rate" in self.told

    @property
    def is_enough(self) -> bool:
        """Whether enough of them ended for an arm of a comparison."""
        return bool(self.told["conversations"] >= FEWEST_CONVERSATIONS)


@dataclass(frozen=True)
class Success:
    """All rounds whose turns can be read."""

    rows: tuple[Row, ...]
    arms: tuple[Arm, ...]
    troubles: tuple[str, ...]

    def of_policy(self, version: str) -> list[int]:
        """The rows of conversations that were all held by one policy."""
        return [n for n, row in enumerate(self.rows) if row.versions == (version,)]

    def of_round(self, name: str) -> list[int]:
        """The rows of a round."""
        return [n for n, row in enumerate(self.rows) if row.round_name == name]

    def side_by_side(self, base: list[int], one: list[int]) -> tuple[list[int], list[int]]:
        """Of the rows of two policies those of the rounds that both held, if any: no season tells
        them apart. A few conversations that went on when the next policy came do not count."""
        large = [
            {row.round_name for row in (self.rows[n] for n in rows) if row.is_enough}
            for rows in (base, one)
        ]
        shared = set.intersection(*large)
        if not shared:
            return base, one
        of_shared = ([n for n in rows if self.rows[n].round_name in shared] for rows in (base, one))
        return next(of_shared), next(of_shared)

    def difference(self, *, base: Sequence[int], one: Sequence[int]) -> Mapping[str, Any]:
        """Success in some rows together less that in others, as `iterppo compare` says it, and
        `open`: whether their shares of open conversations are alike. Nothing more where one has no
        ended one."""
        arms = [together([self.arms[n] for n in rows]) for rows in (one, base)]
        found: dict[str, Any] = {"open": open_shares(arms)}
        ended = [Outcomes(arm.outcome_N[~arm.is_censored_N]) for arm in arms]
        if all(len(each.value_N) for each in ended):
            found |= outcome_effect(*ended, is_adjusted=False, scale=None, level=LEVEL).told()
        return found

    def share_of_personas(self, rows: Sequence[int]) -> float:
        """Of the ended conversations of some rows, those that were held under a persona."""
        arm = together([self.arms[n] for n in rows])
        return float(arm.has_persona_N[~arm.is_censored_N].mean())

    def steps(self) -> list[str]:
        """Each row against the one above it, in points; an empty text where it is not known."""
        told = [""]
        for number in range(1, len(self.rows)):
            found = self.difference(base=[number - 1], one=[number])
            told.append("")
            if found.get("difference_low") is not None:
                low, high = points(found["difference_low"]), points(found["difference_high"])
                told[-1] = f"{points(found['difference'])} [{low}, {high}]"
        return told


def read_success(run: Run) -> Success:
    """Success by round and policy; a round whose turns cannot be read is a trouble, in words."""
    rows: list[Row] = []
    arms: list[Arm] = []
    troubles: list[str] = []
    for one in run.rounds:
        place = one.whole("trajectories")
        if place is None:
            continue
        try:
            arm = read_arm(
                place.artifact(),
                name=str(place.path),
                gamma=_gamma(one),
                cluster=None,
                segment=None,
            )
        except UNREADABLE as error:
            troubles.append(f"{place.path}: cannot be read ({error})")
            continue
        held = [(_policies(run, part.policy_versions), part) for part in arm.by_policy()]
        for policy, part in sorted(held, key=lambda each: each[0]):
            rows.append(
                Row(
                    one.name,
                    policy,
                    tuple(part.policy_versions),
                    compare_arms([part], Question())["arms"][0],
                    _environment(one),
                )
            )
            arms.append(part)
    return Success(tuple(rows), tuple(arms), tuple(troubles))


def measures(rows: Sequence[Row], labels: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """The measures besides the success rate, a line each, with a cell for each row."""
    found = []
    for name, label in labels.items():
        if any(row.told.get(name) for row in rows):
            found.append((label, [interval(row.told, name) for row in rows]))
    return found


def interval(told: Mapping[str, Any], name: str, *, sign: str = "") -> str:
    """`0.245 [0.228, 0.263]`; an empty text where the number is not known."""
    if told.get(name) is None:
        return ""
    low, high = told.get(f"{name}_low"), told.get(f"{name}_high")
    if low is None or high is None or low != low:
        return number(told[name], sign)
    return f"{number(told[name], sign)} [{number(low, sign)}, {number(high, sign)}]"


def number(value: float, sign: str = "") -> str:
    """Three digits; nothing is said to be below zero that is not.

    >>> number(0.0625, "+"), number(-0.0001, "+")
    ('+0.062', '0.000')
    """
    text = f"{value:{sign}.3f}"
    return text.lstrip("+-") if float(text) == 0 else text


def percent(share: float) -> str:
    """
    >>> percent(0.2449)
    '24.5 %'
    """
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """A difference of shares in points of a percent.

    >>> points(0.105), points(-0.02), points(-0.0004)
    ('+10.5', '−2.0', '0.0')
    """
    text = f"{100 * difference:+.1f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def _policies(run: Run, versions: Sequence[str]) -> str:
    return ", ".join(map(run.policy_name, versions)) or "policy unknown"


def _gamma(one: Round) -> float:
    place = one.whole("returns")
    if place is None or place.manifest is None:
        return GAMMA
    return float(place.manifest.config.get("gamma", GAMMA))


def _environment(one: Round) -> str:
    place = one.whole("log")
    return (
        "" if place is None or place.manifest is None else str(place.manifest.config.get("env", ""))
    )
