#!/bin/sh
# Runs a script with a Python that is new enough and can make virtual environments.
# 3.11 comes first: it is the one that everything is tested with. PYTHON=... chooses another.
usable() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
        2>/dev/null
}

for python in ${PYTHON:-python3.11 python3 python3.12 python3.13 python3.14}; do
    if usable "$python"; then
        exec "$python" "$@"
    fi
done

echo "prism: no usable Python found (tried: ${PYTHON:-python3.11, python3, python3.12, python3.13, python3.14})." >&2
echo "  Python 3.11 to 3.14 with its venv module is needed:" >&2
echo "  Debian, Ubuntu:  sudo apt-get install python3 python3-venv" >&2
echo "  or say which:    make serve PYTHON=/path/to/python3.11" >&2
exit 1
