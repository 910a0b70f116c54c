"""Policies as Hugging Face folders: config.json, safetensors files, tokenizer.

`families/` has a file for each `model_type`: its names of our parameters and what its config.json
says of a `Size`. `reading` places the tensors on a mesh, `writing` makes such a folder of a policy.
"""
