#!/bin/sh
# Run Bramble with the environment that was made for this machine's Python.
set -eu
python=$(readlink -f /usr/bin/python3)
home=/usr/lib/bramble/${python##*/}
if [ -x "$home/bin/bramble" ]; then
    exec "$home/bin/bramble" "$@"
fi
echo "error: this package of Bramble is for Python @PYTHONS@; this machine has ${python##*/}" >&2
echo "  Install a newer package of Bramble, or use 'pipx install --global bramble'." >&2
exit 1
