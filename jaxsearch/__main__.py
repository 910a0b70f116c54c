"""`python -m jaxsearch <verb>`: the same as the `jaxsearch` command."""

import sys

from jaxsearch import cli

if __name__ == '__main__':
  sys.exit(cli.main())
