"""Texts as vectors, and how well texts match: encoders of Hugging Face folders, in JAX.

`folder` reads what such a folder says of its model, `weights` its tensors, `batches` runs texts of
like length together. `text_encoder` and `cross_encoder` are what others use.
"""
