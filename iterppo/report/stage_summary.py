"""The three lines at the end of every stage: what was made and where; what it amounts to; what to
worry about, else what to do next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from iterppo.artifact import Manifest
from iterppo.pipeline import BEHAVIOUR, STAGES, Slot, place
from iterppo.report.ingest_worries import ingest_worry

_MANY_CUT = 0.2
_HIGHEST_WEIGHT = 10.0
_HARDLY_BELOW = 0.9
"""Of a uniform choice's loss; who loses more than this share of it has hardly learned to speak."""
_BEYOND = 0.05
"""Of the range of returns; Q may lie so far outside it by chance."""

Numbers = Mapping[str, Any]


def three_lines(path: Path, manifest: Manifest, *, round_folder: Path | None) -> str:
    """What to print when a stage is done.

    Args:
        path: Of its main artifact.
        manifest: The artifact's.
        round_folder: The round, where the stage was given one: the next command names it.
    """
    counts, metrics = manifest.counts, manifest.metrics
    rows = f", {manifest.rows} rows" if manifest.rows else ""
    told = _TOLD.get(manifest.stage, _anything)(counts, metrics)
    worry = _WORRIES.get(manifest.stage, _no_worry)(counts, metrics, path)
    last = f"worry: {worry}" if worry else f"next: {_next(manifest, path, round_folder)}"
    return "\n".join(
        (f"{path}: {manifest.kind}@{manifest.version}{rows}", f"  {told}", f"  {last}")
    )


# --- what it amounts to ---------------------------------------------------------------------------


def _rollout(counts: Numbers, metrics: Numbers) -> str:
    return (
        f"{counts['conversations']} conversations of {metrics['policy_version']}, "
        f"{counts.get('turns', 0)} turns; outcome rate {_interval(metrics, 'outcome_rate')}"
    )


def _ingest(counts: Numbers, metrics: Numbers) -> str:
    return (
        f"{counts['conversations']} conversations ({counts.get('conversations_heldout', 0)} held "
        f"out, {counts.get('conversations_censored', 0)} still open), {counts.get('turns', 0)} "
        f"turns, {counts.get('outcomes', 0)} outcomes; {counts['rejects']} of {counts['lines']} "
        "lines rejected"
    )


def _init(counts: Numbers, metrics: Numbers) -> str:
    told = f"{metrics['policy_version']}, {metrics['parameters']:.0f} parameters"
    if metrics.get("action_loss_heldout") is not None:
        told += f"; loss of held-out suggestions {_number(metrics['action_loss_heldout'])} nats"
        told += f" per token (training {_number(metrics['action_loss_train'])})"
    return told


def _credit(counts: Numbers, metrics: Numbers) -> str:
    return (
        f"{counts.get('turns_scored', 0)} turns scored, {counts.get('turns_censored', 0)} "
        f"censored; held out: {_interval(metrics, 'heldout_bce_gain')} nats better than the mean "
        f"outcome, Kendall's τ {_interval(metrics, 'heldout_kendall_tau')}"
    )


def _returns(counts: Numbers, metrics: Numbers) -> str:
    return (
        f"{counts.get('turns_with_return', 0)} turns with a return, "
        f"{counts.get('turns_censored', 0)} censored; mean return "
        f"{_interval(metrics, 'mean_return_weighted')}"
    )


def _actions(counts: Numbers, metrics: Numbers) -> str:
    return (
        f"{counts.get('states', 0)} states, {counts.get('states_too_long', 0)} too long for "
        f"{metrics['policy_version']}"
    )


def _fit_q(counts: Numbers, metrics: Numbers) -> str:
    told = (
        f"{counts.get('turns_scored', 0)} turns scored, verdict {metrics.get('verdict')}; held "
        f"out: AUC {_number(metrics.get('heldout_auc'))}, explained variance "
        f"{_interval(metrics, 'heldout_explained_variance')}"
    )
    if metrics.get("coverage") is not None:
        told += f"; the log supports {metrics['coverage']:.0%} of the policy's actions"
    if metrics.get("evaluates"):
        told += f"; Q of {metrics['evaluates']}"
    return told


def _prompts(counts: Numbers, metrics: Numbers) -> str:
    return (
        f"{counts.get('prompts', 0)} prompts ({counts.get('prompts_heldout', 0)} held out, "
        f"{counts.get('prompts_cut', 0)} cut to fit) of {counts.get('states', 0)} states"
    )


def _ppo(counts: Numbers, metrics: Numbers) -> str:
    told = f"{metrics['policy_version']} behind {counts.get('updates', 0)} updates; "
    if metrics.get("watched_q_kept") is not None:
        told += (
            f"held-out Q {_number(metrics['watched_q_first'])} -> "
            f"{_number(metrics['watched_q_kept'])} (kept: update {metrics['kept_update']:.0f}), KL "
            f"{_number(metrics.get('watched_kl_kept'))} nats per completion"
        )
    else:
        told += f"Q {_number(metrics['q_first'])} -> {_number(metrics['q_last'])}"
    return told


def _evaluate(counts: Numbers, metrics: Numbers) -> str:
    if metrics.get("method") is None:
        return f"{counts['conversations']} conversations, and no method can say what it is worth"
    return (
        f"value {_interval(metrics, 'value')}, improvement {_interval(metrics, 'difference')} by "
        f"{metrics['method']}; the gate says {metrics['gate']}"
    )


def _export(counts: Numbers, metrics: Numbers) -> str:
    told = f"{metrics['policy_version']}, a Hugging Face folder"
    if "check_completion" in metrics:
        told += f"; served in a fresh process it says: {_quoted(metrics['check_completion'])}"
    return told


def _anything(counts: Numbers, metrics: Numbers) -> str:
    """Of a stage that has no sentence of its own here."""
    named = [f"{name} {value}" for name, value in counts.items()]
    named += [f"{name} {_number(v)}" for name, v in metrics.items() if isinstance(v, float)]
    return ", ".join(named) or "no counts"


_TOLD: dict[str, Callable[[Numbers, Numbers], str]] = {
    "rollout": _rollout,
    "ingest": _ingest,
    "init": _init,
    "credit": _credit,
    "returns": _returns,
    "actions": _actions,
    "fit-q": _fit_q,
    "prompts": _prompts,
    "ppo": _ppo,
    "evaluate": _evaluate,
    "export": _export,
}


# --- what to worry about --------------------------------------------------------------------------


def _no_worry(counts: Numbers, metrics: Numbers, path: Path) -> str | None:
    return None


def _rollout_worry(counts: Numbers, metrics: Numbers, path: Path) -> str | None:
    if not counts.get("outcomes"):
        return "no conversation reached the outcome, so there is nothing to learn from. Hold more."
    return None


def _ingest_worry(counts: Numbers, metrics: Numbers, path: Path) -> str | None:
    return ingest_worry(counts)


def _init_worry(counts: Numbers, metrics: Numbers, path: Path) -> str | None:
    loss, uniform = metrics.get("action_loss_heldout"), metrics.get("uniform_loss")
    if loss is None or uniform is None or loss <= _HARDLY_BELOW * uniform:
        return None
    if loss > uniform:
        return (
            f"of held-out suggestions a uniform choice among the vocabulary would lose "
            f"{_number(uniform)} nats per token, and the policy loses {_number(loss)}. Lower "
            "init.learning_rate, or look at the suggestions of the log."
        )
    return (
        f"its loss of held-out suggestions is hardly below that of a uniform choice among the "
        f"vocabulary, {_number(uniform)} nats per token: it has hardly learned to speak. Raise "
        "init.max_steps, or ingest more conversations."
    )


def _credit_worry(counts: Numbers, metrics: Numbers, path: Path) -> str | None:
    if not (metrics.get("heldout_kendall_tau_low") or 0) > 0:
        return (
            "it was not shown to rank held-out conversations by their outcomes, so its shares may "
            "be no better than equal ones. Collect more."
        )
    if (metrics.get("heldout_bce_gain") or 0) < 0:
        return (
            "it ranks held-out conversations, and is surer of their outcomes than it may be. Lower "
            "credit.learning_rate."
        )
    return None


def _returns_worry(counts: Numbers, metrics: Numbers, path: Path) -> str | None:
    if not counts.get("turns_with_return"):
        return "no return is known: every conversation was still open. Collect ended ones."
    if metrics.get("weight_max") == 0:
        return (
            f"the {counts['turns_with_return']} turns with a return weigh nothing: at "
            "ingest.cutoff every conversation was younger than ingest.idle. Look at both."
        )
    if counts.get("turns_capped"):
        return (
            f"the weight of {counts['turns_capped']} turns was cut at returns.max_weight: long "
            "conversations count too little."
        )
    if (metrics.get("weight_max") or 0) > _HIGHEST_WEIGHT:
        return (
            f"a weight of {_number(metrics['weight_max'])}: a few long conversations stand for "
            "many that were still open. Wait before the log is cut."
        )
    return None


def _fit_q_worry(counts: Numbers, metrics: Numbers, path: Path) -> str | None:
    verdict = metrics.get("verdict")
    outside = _out_of_range(metrics, "sampled_q_mean", "the policy's own suggestions")
    if verdict == "usable":
        return outside
    end = " ppo refuses it." if verdict == "noise" else ""
    beyond = f" {outside}" if outside else ""
    return (
        f"Q is {verdict}.{end} {metrics.get('verdict_reason')}{beyond} All of it: "
        f"iterppo inspect {path}"
    )


def _out_of_range(metrics: Numbers, name: str, whose: str) -> str | None:
    """A mean of Q that no policy can be worth; None: it may be right, or nobody knows."""
    q, low, high = (metrics.get(each) for each in (name, "return_min", "return_max"))
    if q is None or low is None or high is None or low == high:
        return None
    beyond = _BEYOND * (high - low)
    if low - beyond <= q <= high + beyond:
        return None
    return (
        f"Q of {whose} is {_number(q)} on average, and the returns that it was fitted on lie in "
        f"[{_number(low)}, {_number(high)}]: there it does not know what it says. Try another "
        "fit-q.method or more fit-q.members, ingest more conversations, and look at the coverage."
    )


def _prompts_worry(counts: Numbers, metrics: Numbers, path: Path) -> str | None:
    if counts.get("states_too_long"):
        return (
            f"{counts['states_too_long']} states are longer than init.max_prompt_tokens allows, "
            "and were left out."
        )
    if counts.get("prompts_cut", 0) > _MANY_CUT * max(1, counts.get("prompts", 0)):
        return (
            f"{counts['prompts_cut']} prompts lost their beginning to fit. Raise "
            "init.max_prompt_tokens."
        )
    return None


def _ppo_worry(counts: Numbers, metrics: Numbers, path: Path) -> str | None:
    outside = _out_of_range(metrics, "watched_q_kept", "this policy's suggestions")
    if outside is None:
        outside = _out_of_range(metrics, "watched_q_first", "the first policy's suggestions")
    ended = None
    if metrics.get("kept_update") == 0:
        ended = (
            "no update was better on held-out prompts, so the policy is the one it began with. "
            "Lower ppo.learning_rate, or fit a better Q."
        )
    elif metrics.get("stopped"):
        ended = f"it stopped early: {metrics['stopped']}. Curves: {path / 'training_log.parquet'}"
    if outside and ended:
        return f"{outside} Besides, {ended}"
    return outside or ended


def _evaluate_worry(counts: Numbers, metrics: Numbers, path: Path) -> str | None:
    return f"hold: {metrics['gate_reason']}" if metrics["gate"] == "hold" else None


_WORRIES: dict[str, Callable[[Numbers, Numbers, Path], str | None]] = {
    "rollout": _rollout_worry,
    "ingest": _ingest_worry,
    "init": _init_worry,
    "credit": _credit_worry,
    "returns": _returns_worry,
    "fit-q": _fit_q_worry,
    "prompts": _prompts_worry,
    "ppo": _ppo_worry,
    "evaluate": _evaluate_worry,
}


# --- what to do next ------------------------------------------------------------------------------

_FOLLOWING = {
    "rollout": "ingest",
    "ingest": "returns",
    "init": "returns",
    "credit": "returns --rewards credit",
    "returns": "fit-q",
    "actions": "fit-q --set fit-q.method=fqe",
    "fit-q": "ppo",
    "prompts": "ppo",
    "ppo": "export",
    "evaluate": "export",
}
_OF_A_ROUND = ("ingest", "init", "returns", "fit-q", "prompts", "ppo", "export")


def _next(manifest: Manifest, path: Path, round_folder: Path | None) -> str:
    if round_folder is not None and manifest.stage == "credit":
        return f"iterppo {_FOLLOWING['credit']} --round {round_folder}"
    if round_folder is not None:
        for name in _OF_A_ROUND:
            if not _is_made(name, round_folder):
                return f"iterppo {name}{_logs(name, round_folder)} --round {round_folder}"
    if manifest.stage == "export":
        return f"serve it (vllm serve {path}), log what comes back, and ingest that as a new round"
    if round_folder is not None:
        return f"what this made stale: iterppo status {round_folder}"
    following = _FOLLOWING.get(manifest.stage)
    if following is None:
        return f"iterppo inspect {path}"
    if following == "ingest":
        return f"iterppo ingest {path} --out …"
    slots = STAGES[following.split()[0]].reads
    reads = {slot.kind: slot.name for slot in reversed(slots)}  # q, not judge
    named = f" --{reads[manifest.kind]} {path}" if manifest.kind in reads else ""
    return f"iterppo {following}{named} …"


def _is_made(name: str, round_folder: Path) -> bool:
    if name == "init":  # the policy that made the logs, which need not be the round's own
        return place(Slot("policy", "policy", BEHAVIOUR), round_folder).is_dir()
    return all((round_folder / slot.place).is_dir() for slot in STAGES[name].writes)


def _logs(name: str, round_folder: Path) -> str:
    return " LOGS…" if name == "ingest" and not (round_folder / "log").is_dir() else ""


def _interval(metrics: Numbers, name: str) -> str:
    value, low, high = (metrics.get(f"{name}{end}") for end in ("", "_low", "_high"))
    told = _number(value)
    return told if low is None or high is None else f"{told} [{_number(low)}, {_number(high)}]"


def _number(value: Any) -> str:
    return "unknown" if value is None else f"{value:z.3f}"


def _quoted(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 60 else f"{flat[:60]} …")
