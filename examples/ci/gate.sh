#!/bin/sh
# gate.sh - fail a build if an optimizer's state grows
#
# Runs `optadvise bench` on a small network with AdamW as control, checks limits on optimizer state, and writes
#
#   $OPTADVISE_OUT/bench.md     table
#   $OPTADVISE_OUT/bench.json   complete result, for `optadvise compare` (schema: docs/schema/bench.json)
#
# State bytes are counted from tensors and equal on all machines, so this gate is deterministic. Times are measured and
# reported, but not checked by default, because they are noisy on shared runners.
#
# Usage:     sh gate.sh [OPTIONS OF optadvise bench]
#            sh gate.sh --require 'optimizer_seconds <= 40x'
#            OPTADVISE_OPTIMIZERS='lion adan' OPTADVISE_STATE_BYTES=8 OPTADVISE_STATE_RATIO=1 sh gate.sh
#
# Variables: OPTADVISE_OPTIMIZERS   optimizers to measure                          (default: adamw8bit)
#            OPTADVISE_STATE_BYTES  maximum state bytes per parameter              (default: 2.1)
#            OPTADVISE_STATE_RATIO  maximum ratio of state bytes to AdamW's        (default: 0.27)
#            OPTADVISE_ROUNDS       rounds; more give narrower intervals           (default: 7)
#            OPTADVISE_STEPS        steps per round                                (default: 10)
#            OPTADVISE_OUT          folder for the results                         (default: optadvise-results)
#
# Exit code: 0 passed, or inconclusive (with a warning) · 1 a requirement failed · other: the benchmark failed
set -eu

out=${OPTADVISE_OUT:-optadvise-results}
mkdir -p "$out"

code=0
# shellcheck disable=SC2086  # split the list of optimizers into words
optadvise bench ${OPTADVISE_OPTIMIZERS:-adamw8bit} \
    --rounds "${OPTADVISE_ROUNDS:-7}" \
    --steps "${OPTADVISE_STEPS:-10}" \
    --require "state_bytes_per_parameter <= ${OPTADVISE_STATE_BYTES:-2.1}" \
    --require "state_bytes <= ${OPTADVISE_STATE_RATIO:-0.27}x" \
    --json "$out/bench.json" \
    --markdown "$out/bench.md" \
    "$@" || code=$?

# GitHub shows lines that start with :: as annotations of the run.
case $code in
0)
    echo "gate: all requirements passed"
    ;;
1)
    echo "::error title=optadvise::a requirement failed: see $out/bench.md"
    exit 1
    ;;
5)
    # Too much noise for a verdict; failing here would make the build flaky.
    echo "::warning title=optadvise::inconclusive: increase OPTADVISE_ROUNDS or the limit; see $out/bench.md"
    ;;
*)
    echo "::error title=optadvise::benchmark failed with exit code $code; see the message above"
    exit "$code"
    ;;
esac
