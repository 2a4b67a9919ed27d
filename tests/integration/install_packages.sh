#!/bin/sh
# Install what packages.txt lists and is not there yet, where that is possible; say what is missing where it
# is not.  The integration tests that need a missing program are skipped, and say so.
set -eu
here=$(dirname "$0")

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "not a Debian system: install by other means, or do without: $(tr '\n' ' ' <"$here/packages.txt")"
    exit 0
fi

missing=
while read -r package; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done <"$here/packages.txt"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root=sudo
else
    echo "not installed, and may not install (tests that need them are skipped):$missing"
    exit 0
fi

# A policy of "do not start" keeps the servers' packages from starting them; an existing one is left alone.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    trap '$as_root rm -f "$policy"' EXIT
fi
echo "installing:$missing"
$as_root apt-get update -qq
# shellcheck disable=SC2086  # a list of words is meant
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing </dev/null >/dev/null
