"""Ways of asking a retriever over HTTP: a file each, which `retrieval.dialect` names.

A file says its dialect once for both ends: the backend `http` asks in it, `jaxsearch serve` is
asked in it. `_contract.py` has the functions.
"""
