"""Further terms of the loss, chosen by name and weight (`algo.terms='name=0.1,other=-2'`).

A term maps `Outputs` to per-token values and to the tokens that it is a mean over, arrays [B,T].
The loss gets weight times that mean, taken as `algo.loss_norm` takes the policy loss's. The tokens
may depend on advantages and kept tokens only: they are counted before log-probabilities are known.
Gradients flow into `logprobs_BT` and `entropies_BT`; where a term is not meant, its derivative must
be finite all the same. KL to the reference and entropy have fields of their own, `algo.kl_coef` and
`algo.entropy_coef`.

Left out: KL-Cov and Clip-Cov (arXiv 2505.22617), which pick tokens by a covariance over the whole
batch, so that cutting it into micro-batches would change them.
"""

from __future__ import annotations

import dataclasses

import jax

from jaxsearch.algo import kl


@dataclasses.dataclass(frozen=True)
class Outputs:
  """What the learner knows of a micro-batch, float32 [B,T]; 0 where nothing is trained.

  Attributes:
    logprobs_BT, entropies_BT: under the parameters to be trained.
    old_logprobs_BT: the ratio's denominator.
    advantages_BT: as the policy loss has them.
    reference_logprobs_BT: of the KL's reference; None without a KL.
    kept_BT: bool, what is trained.
  """

  logprobs_BT: jax.Array
  entropies_BT: jax.Array
  old_logprobs_BT: jax.Array
  advantages_BT: jax.Array
  reference_logprobs_BT: jax.Array | None
  kept_BT: jax.Array


def positive_likelihood(outputs: Outputs) -> tuple[jax.Array, jax.Array]:
  """-logprob, a mean over the tokens of positive advantage alone.

  The positive-example language-model loss of VAPO (arXiv 2504.05118), which weighs it 0.1. There an
  example is positive if its answer is right; here if it did better than its group, so that a
  question which every rollout answers adds nothing. By hand: logprobs -1, -2, -3 with advantages
  0.5, 0, 2 have the mean 2.
  """
  return -outputs.logprobs_BT, outputs.advantages_BT > 0


def kl_to_old(outputs: Outputs) -> tuple[jax.Array, jax.Array]:
  """r - 1 - ln r with r = exp(logprob - old_logprob): PPO's penalty (arXiv 1707.06347, eq. 8).

  It is the KL of the old policy and the new one as `kl.k3` estimates it, bounds included, from what
  the old one sampled: instead of the clip or beside it, where a batch has several updates
  (`algo.updates_per_batch`). At r = 1 it has no gradient. Left out: the rule that adapts its
  weight. By hand: r = 2 gives 0.3069 and the gradient 1, r = 1/2 gives 0.1931 and -1/2.
  """
  return kl.k3(outputs.old_logprobs_BT, outputs.logprobs_BT), outputs.kept_BT
