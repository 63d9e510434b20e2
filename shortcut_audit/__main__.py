"""`python -m shortcut_audit` is the `shortcut-audit` command."""

from shortcut_audit.cli.main import main

if __name__ == "__main__":
    main()
