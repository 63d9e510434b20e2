#!/usr/bin/env bash
# In: COMMAND, RUN. Makes the audit; finished parts that a cache brought along are used again.
set -euo pipefail

# Every model leaves parts of its own. Over this many MiB, none of them is worth its place in a cache.
most=1000
if [ -d "$RUN/shards" ] && [ "$(du -sm -- "$RUN/shards" | cut -f1)" -gt "$most" ]; then
  rm -rf -- "$RUN/shards"
fi
# An earlier result must not stand for that of this model, should the command make none.
rm -f -- "$RUN/result.json" "$RUN/arrays.safetensors" "$RUN/report.html"

bash -eo pipefail -c "$COMMAND"

if [ ! -f "$RUN/result.json" ]; then
  echo "::error title=shortcut-audit gate%3A command::The command made no audit in the folder that run names."
  exit 2
fi
