"""`python -m residualformer`, the command line of `residualformer/cli`."""

from residualformer.cli import main

main()
