"""``python -m keyimport.cli`` is `keyimport`."""

from keyimport.cli import main

main()
