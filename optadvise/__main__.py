"""`python -m optadvise`."""

from optadvise.cli.app import main

main()
