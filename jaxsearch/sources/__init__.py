"""Where the next questions come from, chosen by name (`questions.source`): a file each."""
