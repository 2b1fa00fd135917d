#!/bin/sh
# Print the first Python that can run the server and make a virtual environment, or say what
# is missing and how to get it. PYTHON=/path/to/python is taken before all others.

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
    usable "$candidate" || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
    without_venv=${without_venv:-$candidate}
done

if [ -n "$without_venv" ]; then
    version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "$without_venv cannot make virtual environments. On Debian and Ubuntu:" >&2
    echo "    sudo apt install python3-venv python$version-venv" >&2
else
    echo "Python 3.11 or newer is needed, and ${PYTHON:-none} is on this machine." >&2
    echo "On Debian 12, Ubuntu 24.04 and later:" >&2
    echo "    sudo apt install python3 python3-venv" >&2
    echo "If it is elsewhere: make PYTHON=/path/to/python3" >&2
fi
exit 1
