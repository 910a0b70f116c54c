"""Model families of Hugging Face, a file each, called as config.json calls them in `model_type`.

A family offers

  TENSORS           every tensor it may have, as `_common.Tensor`
  size(described)   transformers' configuration -> `decoder.Size`
  fits(size)        whether it can hold a policy of this size
  describe(size)    fields of transformers' configuration that are not those of `_common`
"""

# As `plugins` takes it.
FOLDER = 'huggingface.families'
