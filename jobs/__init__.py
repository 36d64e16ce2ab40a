"""jobs: configurations, commands, printing and exit codes; the only room that talks to a person."""
