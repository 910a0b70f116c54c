"""Policy families, one file each.

A family offers `Size`, `init`, `hidden`, `unembedding`, `logits`, `cached_hidden` and `AXES`;
parameters are a plain pytree everywhere outside this folder.

One alphabet for names, einsums and docstrings:
  B rows, T time, S cache slots, R extend lanes, C extend chunk, L layers, D embed, Q query heads,
  K key/value heads, G query heads per key head, H head size, F hidden, V vocabulary.
"""
