"""A turn as a decision process of its own: one token at a time, paid Q^π(s, a) at its end.

    π(a|s) -> π(token | s, tokens so far) -> optimised as a single turn -> π'(a|s)

Optimising tokens within a turn is a step of policy improvement on whole messages, so policy
iteration needs nothing but single-turn optimisation (Jiang et al., 2025, observation 1). Here it is
done exactly, by backward induction over all strings; PPO does it by sampling.

Tokens within a turn are not discounted, since γ is per turn.

Shapes: S states of the conversation, A strings, P prefixes to which a token may be added, W tokens.
Token 0 ends a string.
"""

import itertools
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

END = 0


class TokenTree:
    """All strings of at most so many tokens. One that is shorter ends with token 0; that token
    alone is the empty message, an abstention, and an action like any other.

    Args:
        num_tokens: Size W of the vocabulary, the ending one among them; at least 2.
        length: Most tokens of a string; at least 1.

    Raises:
        ValueError: If there are fewer of either.

    >>> TokenTree(num_tokens=2, length=2).strings
    [(0,), (1, 0), (1, 1)]
    """

    def __init__(self, *, num_tokens: int, length: int) -> None:
        if num_tokens < 2 or length < 1:
            raise ValueError(f"{num_tokens} tokens and strings of {length} leave nothing to choose")
        words = range(1, num_tokens)
        open_ones = [prefix for n in range(length) for prefix in itertools.product(words, repeat=n)]
        nodes = {prefix: number for number, prefix in enumerate(open_ones)}
        self.strings: list[tuple[int, ...]] = []
        self.child_PW = np.empty((len(open_ones), num_tokens), dtype=np.int64)
        """What stands after a token: a prefix's number, or P + that of a string."""
        for number, prefix in enumerate(open_ones):
            for token in range(num_tokens):
                longer = (*prefix, token)
                if longer not in nodes:
                    nodes[longer] = len(open_ones) + len(self.strings)
                    self.strings.append(longer)
                self.child_PW[number, token] = nodes[longer]

    @property
    def num_prefixes(self) -> int:
        """P; prefix 0 is the empty one, and every prefix comes before those that are longer."""
        return len(self.child_PW)


def string_policy(tree: TokenTree, token_SPW: Array) -> Array:
    """Probability of whole strings: the product over their tokens.

    Args:
        tree: The strings.
        token_SPW: π(token | s, prefix); sums to 1 over the tokens.

    Returns:
        π(a|s), of shape (S, A).

    >>> tree = TokenTree(num_tokens=2, length=2)
    >>> string_policy(tree, np.array([[[0.5, 0.5], [0.25, 0.75]]]))
    array([[0.5  , 0.125, 0.375]])
    """
    P = tree.num_prefixes
    mass_SN = np.zeros((len(token_SPW), P + len(tree.strings)))
    mass_SN[:, 0] = 1
    for prefix in range(P):
        mass_SN[:, tree.child_PW[prefix]] = mass_SN[:, [prefix]] * token_SPW[:, prefix]
    return mass_SN[:, P:]


def token_policy(tree: TokenTree, policy_SA: Array) -> Array:
    """The inverse of `string_policy`: π(token | s, prefix); uniform after a prefix that never
    occurs.

    Returns:
        Of shape (S, P, W).

    >>> tree = TokenTree(num_tokens=2, length=2)
    >>> token_policy(tree, np.array([[0.5, 0.125, 0.375]]))
    array([[[0.5 , 0.5 ],
            [0.25, 0.75]]])
    """
    P = tree.num_prefixes
    mass_SN = np.concatenate([np.zeros((len(policy_SA), P)), policy_SA], axis=1)
    token_SPW = np.full((len(policy_SA), *tree.child_PW.shape), 1 / tree.child_PW.shape[1])
    for prefix in reversed(range(P)):
        mass_SW = mass_SN[:, tree.child_PW[prefix]]
        mass_SN[:, prefix] = mass_SW.sum(axis=1)
        occurs_S = mass_SN[:, prefix] > 0
        token_SPW[occurs_S, prefix] = mass_SW[occurs_S] / mass_SN[occurs_S, prefix, None]
    return token_SPW


def optimal_tokens(tree: TokenTree, value_SA: Array) -> Array:
    """The optimum of the turn: V(prefix) = max over tokens of V(prefix, token), where V of a whole
    string is Q^π(s, a).

    Args:
        tree: The strings.
        value_SA: What each is paid, in units of Q.

    Returns:
        A policy that is sure of its tokens, of shape (S, P, W).

    >>> tree = TokenTree(num_tokens=2, length=2)
    >>> string_policy(tree, optimal_tokens(tree, np.array([[0.1, 0.3, 0.2]])))
    array([[0., 1., 0.]])
    """
    value_SN, token_SPW = _open_turn(tree, value_SA)
    for prefix in reversed(range(tree.num_prefixes)):
        value_SW = value_SN[:, tree.child_PW[prefix]]
        value_SN[:, prefix] = value_SW.max(axis=1)
        token_SPW[:, prefix] = np.eye(value_SW.shape[1])[value_SW.argmax(axis=1)]
    return token_SPW


def regularised_tokens(
    tree: TokenTree, value_SA: Array, reference_SPW: Array, *, beta: float
) -> Array:
    """The optimum of the turn where every token also costs β (log π' − log π_ref).

        V(prefix) = β log Σ_w π_ref(w|prefix) exp(V(prefix, w) / β)
        π'(w|prefix) = π_ref(w|prefix) exp((V(prefix, w) − V(prefix)) / β)

    The costs of the tokens of a string add up to log π'(a|s) − log π_ref(a|s), so this is the
    optimum over whole messages under β KL(π'‖π_ref), `regularised_policy(…, direction="new_old")`.
    No cost of the tokens that π' writes amounts to KL(π_ref‖π'), which is a mean over what π_ref
    writes.

    Args:
        tree: The strings.
        value_SA: What each is paid, in units of Q.
        reference_SPW: π_ref(token | s, prefix), positive everywhere.
        beta: In units of Q per nat; positive.

    Returns:
        π'(token | s, prefix), of shape (S, P, W).

    >>> tree = TokenTree(num_tokens=2, length=1)
    >>> half = np.full((1, 1, 2), 0.5)
    >>> regularised_tokens(tree, np.array([[0.0, np.log(3)]]), half, beta=1.0)
    array([[[0.25, 0.75]]])
    """
    if beta <= 0 or reference_SPW.min() <= 0:
        raise ValueError(f"beta = {beta} and every probability of the reference must be positive")
    value_SN, token_SPW = _open_turn(tree, value_SA)
    for prefix in reversed(range(tree.num_prefixes)):
        value_SW = value_SN[:, tree.child_PW[prefix]]
        most_S1 = value_SW.max(axis=1, keepdims=True)
        weight_SW = reference_SPW[:, prefix] * np.exp((value_SW - most_S1) / beta)
        total_S1 = weight_SW.sum(axis=1, keepdims=True)
        value_SN[:, [prefix]] = most_S1 + beta * np.log(total_S1)
        token_SPW[:, prefix] = weight_SW / total_S1
    return token_SPW


def _open_turn(tree: TokenTree, value_SA: Array) -> tuple[Array, Array]:
    """Values of all nodes, those of prefixes still to be found, and room for a token policy."""
    S, P = len(value_SA), tree.num_prefixes
    if value_SA.shape != (S, len(tree.strings)):
        raise ValueError(f"value {value_SA.shape} is not (S, A) with A = {len(tree.strings)}")
    value_SN = np.concatenate([np.zeros((S, P)), value_SA], axis=1)
    return value_SN, np.zeros((S, *tree.child_PW.shape))
