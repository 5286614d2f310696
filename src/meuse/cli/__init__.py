"""The command line: `main` has the verbs, `compress` those of compression."""

from meuse.cli.main import app as app
from meuse.cli.main import main as main
