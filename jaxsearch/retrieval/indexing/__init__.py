"""Making an index of a corpus: stages over a draft folder, each of which goes on where it was."""
