#!/usr/bin/env bash
# In: RUN, POLICY, BASELINE, FAIL_ON, NUMERICS, REPORTS. Out: exit-code, outcome, warnings; files in REPORTS.
# Ends as `shortcut-audit gate check` does, unless FAIL_ON says otherwise. What could not be checked at
# all (codes over 1) fails whatever it says.
set -euo pipefail

arguments=(--github --junit "$REPORTS/gate.xml" --markdown "$REPORTS/gate.md"
  --json "$REPORTS/gate.json" --badge "$REPORTS/badge.json" --numerics "$NUMERICS")
[ -z "$POLICY" ] || arguments+=(--policy "$POLICY")
[ -z "$BASELINE" ] || arguments+=(--baseline "$BASELINE")

code=0
shortcut-audit gate check "${arguments[@]}" -- "$RUN" || code=$?

warnings=0
outcome=unusable
if [ "$code" -le 1 ] || [ "$code" -eq 3 ]; then
  # No report beside such a code is a fault; then nothing was checked.
  read -r outcome warnings < <(python -c '
import json, sys
report = json.load(open(sys.argv[1], encoding="utf-8"))
print(report["outcome"], sum(check["level"] == "warning" for check in report["checks"]))
' "$REPORTS/gate.json") || { code=3 outcome=unusable warnings=0; }
fi
# Never a pass that the report does not bear out.
if [ "$code" -eq 0 ] && [ "$outcome" != passed ]; then
  code=3
fi

mkdir -p -- "$REPORTS/run"
for name in result.json arrays.safetensors report.html; do
  [ ! -f "$RUN/$name" ] || cp -- "$RUN/$name" "$REPORTS/run/"
done
{
  echo "exit-code=$code"
  echo "outcome=$outcome"
  echo "warnings=$warnings"
} >>"$GITHUB_OUTPUT"

if [ "$FAIL_ON" = never ] && [ "$code" -eq 1 ]; then
  exit 0
fi
if [ "$FAIL_ON" = warning ] && [ "$code" -eq 0 ] && [ "$warnings" -gt 0 ]; then
  echo "::error title=shortcut-audit gate::$warnings checks warn, and fail-on is warning."
  exit 1
fi
exit "$code"
