"""The mathematics of the update as pure functions, chosen by name from the configuration.

  summary     what every host knows of every rollout
  advantages  rewards of the whole batch -> one number per policy token (numpy, float64 inside)
  selectors   which rollouts are trained
  shaping     advantages on the mesh: KL in the reward, whitening
  logprobs    hidden states -> log-probabilities and entropies, chunked over time
  losses      per-token policy losses
  terms       further terms of the loss, with weights
  kl          estimators of the KL to the reference
  norms       what sums over tokens are divided by
  objective   the loss of a micro-batch, its denominators and metrics
  optimizer   the step: clip, rate and a rule
  rules       AdamW, Muon

Arrays over tokens are [B,T] and their entry t speaks of token t, which was predicted from the
tokens before it; entry 0 is predicted from nothing and never trained.
"""
