"""Forward algorithm of a hidden Markov model of three states; the output is a log-likelihood.

a is the logarithm of the probability of each hidden state, given what was seen so far, e that of
what is seen now in each. A has the logits of the transitions, row i from state i; before the first
of them all states are alike. The output is the log-probability of what is seen, given the past: its
sum over time is the sequence's.
Field: time series, language models.
Source: Rabiner 1989, doi:10.1109/5.18626, equations 19 to 21, scaled as in section V.A.
"""

import math

from rnncc import Input, Param, State, cell, logsumexp


@cell
def hmm_forward(a: State(size=3, init=-math.log(3)), e: Input(size=3), A: Param(size=(3, 3))):
    before = [a[i] - logsumexp(A[i]) for i in range(3)]
    joint = [e[j] + logsumexp([before[i] + A[i, j] for i in range(3)]) for j in range(3)]
    y = logsumexp(joint)
    return {"a": [value - y for value in joint], "y": y}
