"""`python -m rnncc`: the command line."""

from rnncc.cli.main import main

if __name__ == "__main__":
    main(prog_name="rnncc")
