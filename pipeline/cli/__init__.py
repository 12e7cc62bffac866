"""The command line: `commands` starts it, the other files hold further commands by what they work on."""

from pipeline.cli.commands import app, main

__all__ = ["app", "main"]
