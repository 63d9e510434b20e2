#!/usr/bin/env bash
# Inputs that make no sense end here, before anything is installed; then, what caches are called.
# In: RUN, COMMAND, BASELINE, FAIL_ON, PYTHON_VERSION, ACTION_PATH. Out: reports, pip-cache, pip-key, run-key.
set -euo pipefail

refuse() {
  printf '::error title=shortcut-audit gate%%3A inputs::%s\n' "$1"
  exit 2
}

[ -n "$RUN" ] || refuse "run is empty; it names the folder of the audit."
case "$FAIL_ON" in
  failure | warning | never) ;;
  *) refuse "fail-on is failure, warning or never." ;;
esac
real() { python -c 'import os, sys; print(os.path.realpath(sys.argv[1]))' "$1"; }
if [ -n "$BASELINE" ] && [ "$(real "$RUN")" = "$(real "$BASELINE")" ]; then
  refuse "run and baseline are the same folder; nothing would be compared."
fi

digest() { python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])'; }

reports="${RUNNER_TEMP:-/tmp}/shortcut-audit-gate"
rm -rf -- "$reports"
mkdir -p -- "$reports"
system="${RUNNER_OS:-any}-${RUNNER_ARCH:-any}"
{
  echo "reports=$reports"
  echo "pip-cache=$(python -m pip cache dir)"
  echo "pip-key=shortcut-audit-pip-$system-$PYTHON_VERSION-$(digest <"$ACTION_PATH/pyproject.toml")"
  echo "run-key=shortcut-audit-run-$system-$(printf '%s\n%s' "$RUN" "$COMMAND" | digest)"
} >>"$GITHUB_OUTPUT"
