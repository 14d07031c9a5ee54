"""The command line: every command, its --json, its exit codes, and what each failure says."""
