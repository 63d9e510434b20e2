#!/usr/bin/env bash
# In: COMMAND, INSTALL, ACTION_PATH. A gate alone needs neither torch nor anything that makes audits.
set -euo pipefail

pip_install() { python -m pip install --quiet --disable-pip-version-check "$@"; }

if [ "$INSTALL" = none ]; then
  shortcut-audit --version
elif [ -n "$INSTALL" ]; then
  read -ra arguments <<<"$INSTALL"
  pip_install "${arguments[@]}"
elif [ -n "$COMMAND" ]; then
  pip_install "$ACTION_PATH"
else
  # What a gate of a stored audit loads, as pyproject.toml has it.
  read -ra needed <<<"$(python -c '
import re, sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
light = ("numpy", "pydantic", "safetensors", "typer")
wanted = (d.replace(" ", "") for d in project["dependencies"] if re.match(r"[\w-]+", d)[0] in light)
print(*wanted)
' "$ACTION_PATH/pyproject.toml")"
  pip_install "${needed[@]}"
  pip_install --no-deps "$ACTION_PATH"
fi
