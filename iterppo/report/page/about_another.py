"""Evaluations and exports of a policy that has been made again since.

    Round -> the evaluation of its policy, and sentences about what is of another one

A round's policy may be trained again after it was evaluated. What was said of the one before it
says nothing of the one that lies there now, even where both have one name: digests decide.
"""

from __future__ import annotations

import shlex

from iterppo.artifact import Manifest
from iterppo.report.page.run import Place, Round

# kind of the artifact -> (the input that is the policy, what follows, the command that mends it)
_SPEAKS_OF = {
    "evaluation": ("candidate", "it is not used", "evaluate --gate"),
    "export": ("policy", "whoever serves it serves that one", "export"),
}


def own_evaluation(one: Round) -> Place | None:
    """The evaluation of the policy that lies in the round; any, where no policy does."""
    place = one.whole("policy")
    policy = place.manifest if place is not None else None
    for each in one.places.values():
        manifest = each.manifest
        if manifest is None or manifest.kind != "evaluation":
            continue
        if policy is None or _is_of(manifest, policy):
            return each
    return None


def about_another(one: Round) -> list[str]:
    """A sentence on each evaluation and export of another policy than the round's."""
    place = one.whole("policy")
    if place is None or place.manifest is None:
        return []
    policy = place.manifest
    found = []
    for each in one.places.values():
        manifest = each.manifest
        if manifest is None or manifest.kind not in _SPEAKS_OF or _is_of(manifest, policy):
            continue
        _, so, command = _SPEAKS_OF[manifest.kind]
        found.append(
            f"{each.path} is of another policy than the one that lies in {place.path} now: {so}. "
            f"Run: iterppo {command} --round {shlex.quote(str(one.path))}"
        )
    return found


def _is_of(manifest: Manifest, policy: Manifest) -> bool:
    record = manifest.inputs.get(_SPEAKS_OF[manifest.kind][0])
    return record is not None and record.digest == policy.digest
