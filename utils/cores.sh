#!/usr/bin/env bash
# Print how many physical cores this process may use, at least 1.

usable=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
physical=$(lscpu -p=core,socket 2>/dev/null | grep -v '^#' | sort -u | wc -l)
if [ "$physical" -ge 1 ] && [ "$physical" -lt "$usable" ]; then
    usable=$physical
fi
echo "$usable"
