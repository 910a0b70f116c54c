"""The mathematics of the update as pure functions, chosen by name from the configuration.

  advantages  rewards of the whole batch -> one number per policy token (numpy, float64 inside)
  logprobs    hidden states -> log-probabilities and entropies, chunked over time
  losses      per-token policy losses and KL estimators
  norms       what sums over tokens are divided by
  objective   the loss of a micro-batch, its denominators and metrics
  optimizer   AdamW and its learning rate

Arrays over tokens are [B,T] and their entry t speaks of token t, which was predicted from the
tokens before it; entry 0 is predicted from nothing and never trained.
"""
