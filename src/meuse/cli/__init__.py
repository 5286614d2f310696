"""The command line: `main` puts the verbs together, each module has those of one subject."""

from meuse.cli.main import app as app
from meuse.cli.main import main as main
