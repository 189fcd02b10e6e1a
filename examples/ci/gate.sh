#!/bin/sh
# gate.sh - fail a build when an optimizer's state grows
#
# Measures optimizers against AdamW on a small network with `optadvise bench`, holds their memory to bounds, and leaves
#
#   $OPTADVISE_OUT/bench.md     a table for people
#   $OPTADVISE_OUT/bench.json   everything, for `optadvise compare` (schema: docs/schema/bench.json)
#
# The bounds are on state bytes, which are counted from the tensors: the same on every machine and at every run, so this
# gate does not flap. Times on a shared runner are noise; they are measured and shown, and gated only if you ask.
#
# Usage:     sh gate.sh [OPTIONS OF optadvise bench]
#            sh gate.sh --require 'optimizer_seconds <= 40x'
#            OPTADVISE_OPTIMIZERS='lion adan' OPTADVISE_STATE_BYTES=8 OPTADVISE_STATE_RATIO=1 sh gate.sh
#
# Variables: OPTADVISE_OPTIMIZERS   what to measure                              adamw8bit
#            OPTADVISE_STATE_BYTES  state bytes per parameter, at most           2.1
#            OPTADVISE_STATE_RATIO  state against AdamW's, at most               0.27
#            OPTADVISE_ROUNDS       rounds; more make the intervals narrower     7
#            OPTADVISE_STEPS        steps a round                                10
#            OPTADVISE_OUT          folder for the results                       optadvise-results
#
# Exit code: 0 kept, or not certain (a warning) · 1 a requirement failed · anything else: optadvise could not measure
set -eu

out=${OPTADVISE_OUT:-optadvise-results}
mkdir -p "$out"

code=0
# shellcheck disable=SC2086  # several optimizers are several words
optadvise bench ${OPTADVISE_OPTIMIZERS:-adamw8bit} \
    --rounds "${OPTADVISE_ROUNDS:-7}" \
    --steps "${OPTADVISE_STEPS:-10}" \
    --require "state_bytes_per_parameter <= ${OPTADVISE_STATE_BYTES:-2.1}" \
    --require "state_bytes <= ${OPTADVISE_STATE_RATIO:-0.27}x" \
    --json "$out/bench.json" \
    --markdown "$out/bench.md" \
    "$@" || code=$?

# GitHub shows lines that start with :: at the top of the run; elsewhere they are only lines.
case $code in
0)
    echo "gate: every requirement is kept"
    ;;
1)
    echo "::error title=optadvise::a requirement failed: see $out/bench.md"
    exit 1
    ;;
5)
    # The noise is larger than the question. A build that fails on this would fail by chance.
    echo "::warning title=optadvise::inconclusive: ask for more rounds or a wider bound; see $out/bench.md"
    ;;
*)
    echo "::error title=optadvise::could not measure (exit code $code): the line above says why"
    exit "$code"
    ;;
esac
