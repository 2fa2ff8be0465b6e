"""``python -m dwt_cli.cli``: the command dwt-train, for a launcher that wants a module."""

from dwt_cli.cli.main import main

if __name__ == "__main__":
    main()
