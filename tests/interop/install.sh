#!/bin/sh
# Installs other people's Nostr clients for tests/tests/e2e/interop.rs, outside of the checkout. Again costs nothing.
# With --check it installs nothing, and says by its exit code whether they are there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
to=${OA_TEST_CACHE:-$HOME/.cache/oa-tests}/interop

for tool in node npm python3; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: install node, npm and python3" >&2; exit 1; }
done

wanted=$(cat "$here/package.json" "$here/requirements.txt")
if [ -f "$to/installed" ] && [ "$(cat "$to/installed")" = "$wanted" ]; then
    exit 0
fi
if [ "${1:-}" = --check ]; then
    echo "the interop clients are not installed" >&2
    exit 1
fi

rm -rf "$to"
mkdir -p "$to"
cp "$here/package.json" "$to/package.json"
(cd "$to" && npm install --no-audit --no-fund --no-package-lock --loglevel=error)
python3 -m venv "$to/python" || { echo "python3 has no venv: install python3-venv" >&2; exit 1; }
"$to/python/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
printf '%s\n' "$wanted" >"$to/installed"
